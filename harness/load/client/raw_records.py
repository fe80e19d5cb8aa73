"""Raw records of requests as a load process writes them: one JSON line per request, bodies unparsed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.load.plan import NOBODY

WARMUP_BASE = -1_000_000_000
"""Warm-up request number k has seq WARMUP_BASE + k."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer as the load process sees it; filled in while it runs, then written as a line.

    `failure`: '' where an HTTP answer came, else 'timed_out', 'connection_failed' or 'bad_body'. `sent_ns` is 0 until
    it was sent. `connect_ns`: set-up time of the connection, on its first request only.
    `planned_ns`: of a turn that follows another, its own time by the schedule, which `intended_ns` is behind where that
    one's answer came late. `marks`: (monotonic ns, body
    bytes so far) of each read of a stream.
    """

    seq: int
    user: int = NOBODY
    is_warmup: bool = False
    intended_ns: int
    sent_ns: int = 0
    done_ns: int = 0
    status_code: int = 0
    failure: str = ""
    error: str = ""
    input_header: str = ""
    output_header: str = ""
    connect_ns: int | None = None
    planned_ns: int | None = None
    marks: list[tuple[int, int]] = field(default_factory=list)
    body: bytes = b""

    @property
    def is_answered(self) -> bool:
        """An answer came whose status is a success; whether its body is one, is judged later."""
        return not self.failure and 200 <= self.status_code < 300

    def line(self) -> bytes:
        """One JSON line. The body travels as Latin-1, which maps every byte to one character."""
        values = [getattr(self, name) for name in _NAMES]
        values[-1] = self.body.decode("latin-1")
        return json.dumps(values, separators=(",", ":")).encode("ascii") + b"\n"


_NAMES = tuple(Exchange.__dataclass_fields__)


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of one file; a torn last one (the process was killed) is left out."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def read_raw(path: Path) -> Iterator[Exchange]:
    """The requests of one file."""
    return map(raw_from_line, whole_lines(path))


def raw_from_line(line: bytes) -> Exchange:
    """The request of one whole line."""
    values: list[Any] = json.loads(line)
    fields = dict(zip(_NAMES, values, strict=True))
    fields["body"] = fields["body"].encode("latin-1")
    fields["marks"] = [(int(at_ns), int(length)) for at_ns, length in fields["marks"]]
    return Exchange(**fields)


def shifted(raw: Exchange, by_ns: int) -> Exchange:
    """`raw` with every time moved, durations kept: from another host's clock to ours."""
    if by_ns == 0:
        return raw
    return replace(
        raw,
        intended_ns=raw.intended_ns + by_ns,
        sent_ns=raw.sent_ns + by_ns,
        done_ns=raw.done_ns + by_ns,
        planned_ns=None if raw.planned_ns is None else raw.planned_ns + by_ns,
        marks=[(at_ns + by_ns, length) for at_ns, length in raw.marks],
    )
