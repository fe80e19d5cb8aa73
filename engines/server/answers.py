"""Answers that a model server's worker gathers: token ids, log-probabilities, and text in whole characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from engines.api import GenerateParams, GenerateRequest, TokenEvent
from engines.errors import RequestInvalid
from engines.server.stop_strings import StopStrings

Message = dict[str, Any]


class TextCodec(Protocol):
    """Text <-> token ids; `encode` adds what the model's kind wants, `encode_rendered` nothing to a chat template's
    text; `decode` skips special tokens."""

    def encode(self, text: str) -> tuple[int, ...]: ...
    def encode_rendered(self, text: str) -> tuple[int, ...]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class Answer:
    """One job while it is generated. Raises RequestInvalid when its text has no tokens."""

    def __init__(self, job: Message, codec: TextCodec) -> None:
        self.job = job
        self.job_id: int = job["id"]
        input_ids = _input_ids(job, codec)
        if not input_ids:
            raise RequestInvalid("the text has no tokens")
        self.request = GenerateRequest(input_ids=input_ids, params=_params(job, len(input_ids)))
        self._codec = codec
        self._text = GrowingText(codec)
        self._ids: list[int] = []
        self._logprobs: list[float | None] = []
        self._pieces: list[str] = []
        self._finish: str | None = None
        self._stops = StopStrings(job["stop"]) if job.get("stop") else None
        self._shown: list[str] = []
        self.is_quiet = not (job["wants_stream"] or self._stops or job.get("wants_pieces"))
        """Nothing is looked at before its end: its tokens need only be noted."""

    @property
    def is_finished(self) -> bool:
        """Whether no more tokens are wanted: the backend ended it, or a stop string did."""
        return self._finish is not None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string ended it; the backend, which does not know, would continue."""
        return self._stops is not None and self._stops.is_found

    @property
    def has_begun_to_stream(self) -> bool:
        """Whether the client has tokens of it, so that it cannot be generated anew."""
        return bool(self._ids and self.job["wants_stream"])

    def take(self, event: TokenEvent) -> list[Message]:
        """Note one event; the token message to send when the job streams, else nothing."""
        if self.is_stopped:
            return []
        if self._finish is not None:
            raise RuntimeError(f"the backend sent an event after request {event.index} had finished")
        self._finish = event.finish
        self.note(event)
        if event.token_id is None or self.is_quiet:
            return []
        piece = self._text.grow(event.token_id)
        self._pieces.append(piece)
        text = piece
        if self._stops is not None:
            text = self._stops.take(piece)
            self._shown.append(text)
            if self._stops.is_found:
                self._finish = "stop"
        if not self.job["wants_stream"]:
            return []
        message: Message = {
            "kind": "token",
            "job": self.job_id,
            "id": event.token_id,
            "text": text,
            "logprob": finite(event.logprob),
        }
        if self.job.get("wants_pieces"):
            message |= {"piece": piece, "input_tokens": len(self.request.input_ids)}
        return [message]

    def note(self, event: TokenEvent) -> None:
        """Keep the event's token."""
        if event.token_id is not None:
            self._ids.append(event.token_id)
            self._logprobs.append(event.logprob)

    def done_message(self) -> Message:
        """The finished answer. Raises RuntimeError when the backend stopped before it was finished."""
        if self._finish is None:
            raise RuntimeError("the backend ended a batch before every request in it had finished")
        message: Message = {
            "kind": "done",
            "job": self.job_id,
            "text": "".join(self._shown) if self.is_stopped else self._codec.decode(self._ids),
            "input_tokens": len(self.request.input_ids),
            "generated_tokens": len(self._ids),
            "finish_reason": self._finish,
        }
        if self.job["wants_details"]:
            known = [logprob for logprob in self._logprobs if logprob is not None]
            message["tokens"] = self._ids
            message["logprobs"] = [finite(logprob) for logprob in self._logprobs] if known else None
            message["nonfinite"] = any(not math.isfinite(logprob) for logprob in known) if known else None
        if self.job.get("wants_pieces"):
            message["pieces"] = self._pieces
        return message


def _input_ids(job: Message, codec: TextCodec) -> tuple[int, ...]:
    if job.get("ids"):
        return tuple(job["ids"])
    return codec.encode_rendered(job["text"]) if job.get("is_rendered") else codec.encode(job["text"])


def _params(job: Message, input_tokens: int) -> GenerateParams:
    """The job's parameters; `context`, where it has one, leaves the answer what the prompt leaves of it."""
    params = GenerateParams(**job["params"])
    if job.get("context"):
        params = replace(params, max_new_tokens=max(1, job["context"] - input_tokens))
    return params


def finite(logprob: float | None) -> float | None:
    """The number where JSON can hold it; NaN and infinities become null (and `nonfinite` reports it)."""
    return logprob if logprob is not None and math.isfinite(logprob) else None


class GrowingText:
    """Text of a growing id sequence in pieces that, joined, are the text of the whole.

    A token's text may depend on the one before it (a leading blank), and a character may take several tokens, so each
    piece is the difference of two decodings over a short window; an incomplete character is held back.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._ids: list[int] = []
        self._window = 0
        self._shown = 0

    def grow(self, token_id: int) -> str:
        """The text that this token adds; '' while a character is incomplete."""
        self._ids.append(token_id)
        before = self._codec.decode(self._ids[self._window : self._shown])
        after = self._codec.decode(self._ids[self._window :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._window, self._shown = self._shown, len(self._ids)
        return after[len(before) :]


def shape(answer: Message, wants_details: bool) -> Message:
    """One element of the answer body."""
    shaped: Message = {"generated_text": answer["text"]}
    if wants_details:
        shaped["details"] = details(answer, with_tokens=True)
    return shaped


def details(answer: Message, *, with_tokens: bool) -> Message:
    """Counts and why it ended; with tokens also ids, log-probabilities (null unless return_logprobs) and whether any
    was not finite."""
    names = ["generated_tokens", "input_tokens", "finish_reason"]
    if with_tokens:
        names += ["tokens", "logprobs", "nonfinite"]
    return {name: answer[name] for name in names}
