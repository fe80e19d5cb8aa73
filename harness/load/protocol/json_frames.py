"""JSON from the bytes of an answer: the whole of it, or a stream's values with the time at which each was complete."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

from harness.load.protocol.interface import BadBody, Marks

SHORT = 120
"""Characters of a value that an error message repeats."""


def json_bytes(fields: Mapping[str, object]) -> bytes:
    """A request body."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def parsed(body: bytes) -> Any:
    """The JSON value of a whole body. Raises BadBody."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise BadBody(f"expected JSON, got {body[:80]!r} ({error})") from error


def frames(body: bytes, marks: Marks) -> list[tuple[int, dict[str, Any]]]:
    """Each JSON object of a stream (JSON lines or server-sent events) with the time at which its last byte had been
    read. Raises BadBody: no frame at all, something else than an object, or an object that reports an error."""
    found = list(_frames(body, marks))
    if not found:
        raise BadBody("expected a stream of JSON lines, got an empty body")
    return found


def _frames(body: bytes, marks: Marks) -> Iterator[tuple[int, dict[str, Any]]]:
    ends = [length for _, length in marks]
    at = 0
    for line in body.splitlines(keepends=True):
        at += len(line)
        text = line.strip().removeprefix(b"data:").strip()
        if not text or text == b"[DONE]" or text.startswith(b":"):
            continue
        piece = parsed(text)
        if not isinstance(piece, dict):
            raise BadBody(f"expected one JSON object per line of the stream, got {short(piece)}")
        if "error" in piece:
            raise BadBody(f"the stream ended with an error: {short(piece['error'])}")
        last_byte = at - (len(line) - len(line.rstrip(b"\r\n")))
        mark = bisect_left(ends, last_byte)
        yield (marks[min(mark, len(ends) - 1)][0] if ends else 0), piece


def short(value: Any) -> str:
    """A value as an error message shows it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."
