"""A server of conversations whose answers come by a law, and which keeps them by id where it is let.

It speaks OpenAI's Responses and chat completions. Each request and its answer is a Row: the truth to compare a load
with. The text of an answer is its id, so that an answer, wherever it turns up, names the request that it came from.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.harness.load.odd_server import Odd

Messages = tuple[tuple[str, str], ...]
Law = Callable[[str], float]
"""Text of the last question -> milliseconds until its answer; negative: it is answered with a 500."""


@dataclass(kw_only=True)
class Row:
    """One request: what was sent, what it makes of what the server has, and when it came and was answered (ns)."""

    name: str
    previous: str | None
    is_stored: bool
    sent: Messages
    read: Messages
    came_ns: int
    wrote_ns: int = 0


@dataclass(kw_only=True)
class ConversationLaw:
    """`keeps`: what it does with a previous_response_id: follows it, answers 404, or answers as if it had not
    been sent."""

    law: Law
    keeps: Literal["all", "none", "ignored"] = "all"
    rows: dict[str, Row] = field(default_factory=dict)
    kept: dict[str, Messages] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def __call__(self, odd: Odd, body: dict[str, Any]) -> None:
        """Answer one request."""
        came_ns = time.monotonic_ns()
        if odd.command == "GET":
            odd.answer(json.dumps({"data": [{"id": "law"}]}).encode())
            return
        is_chat = odd.path.endswith("/chat/completions")
        previous = body.get("previous_response_id")
        if previous is not None and self.keeps != "ignored" and previous not in self.kept:
            odd.answer(_error(f"Previous response with id '{previous}' not found.", "previous_response_id"), 404)
            return
        sent = _messages(body["messages"] if is_chat else body["input"])
        system = (("system", body["instructions"]),) if body.get("instructions") else ()
        read = (*system, *(self.kept.get(previous, ()) if previous else ()), *sent)
        row = self._noted(body, sent, read, came_ns)
        delay_ms = self.law(sent[-1][1])
        if delay_ms < 0:
            odd.answer(_error("it failed on purpose", None), 500)
            return
        usage = {"input": sum(len(text.split()) for _, text in read), "output": 1}
        answer = _chat_parts if is_chat else _response_parts
        first, rest = answer(row.name, usage, is_streamed=bool(body.get("stream")))
        odd.send_response(200)
        odd.send_header("Content-Length", str(len(first + rest)))
        odd.end_headers()
        odd.wfile.write(first)
        time.sleep(max(0.0, came_ns / 1e9 + delay_ms / 1e3 - time.monotonic()))
        if row.is_stored and self.keeps == "all":  # before the client can know of it
            self.kept[row.name] = (*read[len(system) :], ("assistant", row.name))
        row.wrote_ns = time.monotonic_ns()
        odd.wfile.write(rest)

    def _noted(self, body: Mapping[str, Any], sent: Messages, read: Messages, came_ns: int) -> Row:
        with self._lock:
            row = Row(
                name=f"resp_{len(self.rows)}", previous=body.get("previous_response_id"),
                is_stored=body.get("store", False), sent=sent, read=read, came_ns=came_ns,
            )  # fmt: skip
            self.rows[row.name] = row
            return row


def _messages(items: list[dict[str, Any]]) -> Messages:
    return tuple((item["role"], item["content"]) for item in items)


def _error(message: str, param: str | None) -> bytes:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return json.dumps({"error": error}).encode()


def _response_parts(name: str, usage: Mapping[str, int], *, is_streamed: bool) -> tuple[bytes, bytes]:
    """What is written at once and what at the end."""
    whole: dict[str, Any] = {"id": name, "object": "response", "status": "in_progress", "error": None, "output": []}
    counts = {
        "input_tokens": usage["input"], "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage["output"], "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    content = [{"type": "output_text", "text": name, "annotations": []}]
    message = {"type": "message", "id": f"msg_{name}", "role": "assistant", "status": "completed", "content": content}
    done = {**whole, "status": "completed", "output": [message], "usage": counts}
    if not is_streamed:
        return b"", json.dumps(done).encode()
    delta = {"type": "response.output_text.delta", "item_id": message["id"], "delta": name}
    return _events({"type": "response.created", "response": whole}), _events(
        delta, {"type": "response.completed", "response": done}
    )


def _events(*events: Mapping[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def _chat_parts(name: str, usage: Mapping[str, int], *, is_streamed: bool) -> tuple[bytes, bytes]:
    counts = {"usage": {"prompt_tokens": usage["input"], "completion_tokens": usage["output"]}}
    if not is_streamed:
        choice = {"index": 0, "message": {"role": "assistant", "content": name}, "finish_reason": "stop"}
        return b"", json.dumps({"choices": [choice], **counts}).encode()
    begin = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    end = {"choices": [{"index": 0, "delta": {"content": name}, "finish_reason": "stop"}], **counts}
    return f"data: {json.dumps(begin)}\n\n".encode(), f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode()
