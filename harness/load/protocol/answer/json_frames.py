"""JSON frames from the bytes of an answer or stream, with the time at which each was complete."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from harness.load.protocol.interface import BadBody, Marks, ServerGaveUp

SHORT = 120
"""Characters of a value that an error message repeats."""
BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
"""What a compressed body begins with."""
DONE = b"[DONE]"
"""What ends a stream of server-sent events in OpenAI's protocols."""
_SSE_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})


def json_bytes(fields: Mapping[str, object]) -> bytes:
    """A request body."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def parsed(body: bytes) -> Any:
    """The JSON value of a whole body. Raises BadBody."""
    if body.startswith(GZIP):
        raise BadBody("expected JSON, got gzip; every request asks for identity, unless workload.request changes that")
    try:
        return json.loads(body.removeprefix(BOM).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BadBody(f"expected JSON, got {body[:80]!r} ({type(error).__name__}: {str(error)[:SHORT]})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One value of a stream, and when its last byte had been read (monotonic ns; 0 where no times were kept)."""

    at_ns: int
    value: Any


@dataclass(slots=True, kw_only=True)
class Stream:
    """A stream's values in order; what follows [DONE] is no part of it. `end_ns`: when the last frame was complete."""

    frames: list[Frame] = field(default_factory=list)
    is_done: bool = False
    end_ns: int | None = None


def stream_of(body: bytes, marks: Marks) -> Stream:
    """The values of a stream: server-sent events, JSON lines, or one JSON value over several lines.

    Of an event only its data counts: `id`, `retry`, comments and names are skipped, but an event named error is one.
    Data of several lines is one value; lines that are whole values by themselves, without a blank line between them,
    are a value each. Raises BadBody for anything else, and for an empty body; ServerGaveUp for an error event.
    """
    stream = Stream()
    try:
        for at_ns, value in _values(body, marks):
            stream.end_ns = at_ns if marks else None
            if value is _END:
                stream.is_done = True
                break
            stream.frames.append(Frame(at_ns=at_ns, value=value))
    except BadBody:
        if stream.frames:
            raise
        stream.end_ns = marks[-1][0] if marks else None
        stream.frames.append(Frame(at_ns=stream.end_ns or 0, value=parsed(body)))
    if not stream.frames and not stream.is_done:
        raise BadBody("expected a stream of JSON lines or server-sent events, got an empty body")
    return stream


_END = object()


def _values(body: bytes, marks: Marks) -> Iterator[tuple[int, Any]]:
    """(when it was complete, value) of each frame; _END for [DONE]."""
    ends = [length for _, length in marks]
    at, events = 0, _Events()
    for line in body.splitlines(keepends=True):
        text = line.rstrip(b"\r\n")
        last_byte, at = at + len(text), at + len(line)
        name, value = _field(text.removeprefix(BOM) if last_byte == len(text) else text)
        at_ns = marks[min(bisect_left(ends, last_byte), len(ends) - 1)][0] if ends else 0
        if name == b"event":
            events.is_error = value.lower() == b"error"
        elif name == b"":
            yield from events.end()
        elif name == b"data" and value:
            yield from events.data(value, at_ns)
        elif name == b"json":
            yield from events.end()
            yield at_ns, parsed(value)
    yield from events.end()


class _Events:
    """The event whose lines are being read: its data so far, and whether it is named error."""

    def __init__(self) -> None:
        self.is_error = False
        self._waiting: list[bytes] = []
        self._at_ns = 0

    def data(self, value: bytes, at_ns: int) -> Iterator[tuple[int, Any]]:
        """A line of data: a value by itself, or a part of one."""
        if self.is_error:
            raise ServerGaveUp(f"the stream reports an error: {value[:SHORT].decode('utf-8', 'replace')}")
        if not self._waiting:
            try:
                yield at_ns, _END if value == DONE else parsed(value)
                return
            except BadBody:
                pass
        self._waiting.append(value)
        self._at_ns = at_ns

    def end(self) -> Iterator[tuple[int, Any]]:
        """The event is over: the value that its lines make together, where they made none alone."""
        self.is_error = False
        if self._waiting:
            yield self._at_ns, parsed(b"\n".join(self._waiting))
            self._waiting = []


def _field(line: bytes) -> tuple[bytes, bytes]:
    """The field of an event and its value; ('json', line) of a line of JSON, ('', '') of a blank one."""
    text = line.strip()
    if not text:
        return b"", b""
    name, _, value = text.partition(b":")
    if not name or name in _SSE_FIELDS:
        return name or b"comment", value.strip()
    return b"json", text


def short(value: Any) -> str:
    """A value as an error message shows it."""
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} too deep to show"
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


def joined(pieces: Iterable[str]) -> str:
    """The text of a stream's pieces. Where each of three or more repeats the one before and more, as SGLang's
    own protocol and older servers send them, the last is the text."""
    texts = [piece for piece in pieces if piece]
    sizes = {len(text) for text in texts}
    if len(sizes) > 2 and all(later.startswith(earlier) for earlier, later in pairwise(texts)):
        return texts[-1]
    return "".join(texts)


def whole_text(text: str) -> str:
    """`text` with the two halves of a character joined (servers may send them apart) and lone halves replaced, so that
    it can be stored as UTF-8."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
