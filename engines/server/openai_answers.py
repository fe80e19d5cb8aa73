"""Answer bodies and stream events of OpenAI's completions and chat completions, from the workers' answers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from engines.server.openai_body import OpenAiBody

Answer = dict[str, Any]

DONE = b"data: [DONE]\n\n"


def event(value: Answer) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error_body(code: int, kind: str, message: str, param: str | None = None) -> Answer:
    """OpenAI's error object."""
    whose = "server_error" if code >= 500 or code == 424 else "invalid_request_error"
    return {"error": {"message": message, "type": whose, "param": param, "code": kind}}


class Answers:
    """The bodies that answer one request."""

    def __init__(self, asked: OpenAiBody, model_name: str) -> None:
        self._asked = asked
        self._is_chat = bool(asked.messages)
        self._head = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if self._is_chat else "text_completion",
            "created": int(time.time()),
            "model": model_name,
        }
        self._is_first = True
        self._tokens = 0
        self._characters = 0

    def whole(self, answers: Sequence[Answer]) -> Answer:
        """The body of a request that is not streamed: one choice a prompt."""
        asked_tokens = sum(answer["input_tokens"] for answer in answers)
        tokens = sum(answer["generated_tokens"] for answer in answers)
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._head, "choices": choices, "usage": usage(asked_tokens, tokens)}

    def _choice(self, index: int, answer: Answer) -> Answer:
        shown: Answer = {"index": index}
        if self._is_chat:
            shown["message"] = {"role": "assistant", "content": answer["text"], "refusal": None}
        else:
            shown["text"] = answer["text"]
        scores = zip(answer.get("pieces") or (), answer["logprobs"] or (), strict=False)
        shown["logprobs"] = self._logprobs(list(scores)) if self._asked.wants_logprobs else None
        shown["finish_reason"] = finish_reason(answer)
        if self._asked.wants_token_ids:
            shown["token_ids"] = answer["tokens"]
        return shown

    def token(self, token: Answer) -> Answer:
        """The chunk of one token of a stream; its text may be empty."""
        self._tokens += 1
        chunk = self._chunk(token["text"], None, [(token["piece"], token["logprob"])], [token["id"]])
        if self._asked.usage_in_every_chunk:
            chunk["usage"] = usage(token["input_tokens"], self._tokens)
        return chunk

    def end(self, answer: Answer) -> Iterator[Answer]:
        """The last chunks of a stream: the text that was held back and why it ended; the usage, where it is asked."""
        yield self._chunk(answer["text"][self._characters :], finish_reason(answer), [], [])
        if self._asked.include_usage:
            counts = usage(answer["input_tokens"], answer["generated_tokens"])
            yield {**self._stream_head(), "choices": [], "usage": counts}

    def _chunk(
        self, text: str, reason: str | None, scores: Sequence[tuple[str, float | None]], ids: Sequence[int]
    ) -> Answer:
        choice: Answer = {"index": 0}
        if self._is_chat:
            choice["delta"] = {"role": "assistant", "content": text} if self._is_first else {"content": text}
            if reason is not None and not text and not self._is_first:
                choice["delta"] = {}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(scores) if self._asked.wants_logprobs and scores else None
        choice["finish_reason"] = reason
        if self._asked.wants_token_ids:
            choice["token_ids"] = list(ids)
        self._is_first = False
        self._characters += len(text)
        chunk = {**self._stream_head(), "choices": [choice]}
        return {**chunk, "usage": None} if self._asked.include_usage else chunk

    def _stream_head(self) -> Answer:
        return {**self._head, "object": "chat.completion.chunk"} if self._is_chat else self._head

    def _logprobs(self, scores: Sequence[tuple[str, float | None]]) -> Answer:
        """Of each token its own text and log P in nats; null where that is no finite number."""
        listed = self._asked.lists_likeliest
        if self._is_chat:
            rows = [{"token": text, "logprob": score, "bytes": list(text.encode())} for text, score in scores]
            return {"content": [{**row, "top_logprobs": [row] if listed else []} for row in rows], "refusal": None}
        offsets, at = [], self._characters
        for text, _ in scores:
            offsets.append(at)
            at += len(text)
        return {
            "tokens": [text for text, _ in scores],
            "token_logprobs": [score for _, score in scores],
            "top_logprobs": [{text: score} for text, score in scores] if listed else None,
            "text_offset": offsets,
        }


def usage(asked: int, generated: int) -> Answer:
    """Token counts; the closing end token is among those generated."""
    return {"prompt_tokens": asked, "completion_tokens": generated, "total_tokens": asked + generated}


def finish_reason(answer: Answer) -> str:
    """'length', or 'stop' for an end token and a stop string."""
    return "length" if answer["finish_reason"] == "length" else "stop"
