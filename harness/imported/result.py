"""One result of another tool as its reader hands it on: requests, its own numbers, and what it did not record."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.records import RequestRecord
from harness.reported import Reported
from harness.units import NS_PER_MS, NS_PER_S

LATEST_S = 250_000_000_000.0
"""The year 9892: later moments of a wall clock cannot be written as a date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedLoad:
    """How hard a load was, as the tool's files state it: users at a time, or requests per second (`cv`: of the gaps).
    `is_recorded` False: nothing states it, and the requests outstanding at a time stand in for users."""

    kind: Literal["closed", "constant", "poisson", "gamma"]
    amount: float
    cv: float | None = None
    is_recorded: bool = True

    @property
    def is_open_loop(self) -> bool:
        """Requests left on a schedule."""
        return self.kind != "closed"

    def in_scenario(self) -> dict[str, Any]:
        """As `workload.load` has it."""
        if self.kind == "closed":
            return {"kind": "closed", "users": max(1, round(self.amount))}
        spread = {"cv": self.cv} if self.kind == "gamma" else {}
        return {"kind": self.kind, "rate_rps": self.amount, **spread}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One load that another tool measured. `requests` is empty where it kept aggregates alone. `unavailable` is metric
    names -> why they cannot be had from its files, `unknown` one sentence for each thing that could not be known."""

    tool: str
    version: str
    files: tuple[Path, ...]
    model: str
    load: AskedLoad | None
    is_streamed: bool
    requests: tuple[RequestRecord, ...] = ()
    reported: tuple[Reported, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    started_utc: str = ""


def ns_after(seconds: float, begin: float) -> int:
    """Nanoseconds from `begin`, both in seconds of one clock."""
    return round((seconds - begin) * NS_PER_S)


def ns_of_ms(milliseconds: float) -> int:
    """Nanoseconds."""
    return round(milliseconds * NS_PER_MS)


def with_users(records: Sequence[RequestRecord]) -> tuple[RequestRecord, ...]:
    """The records by send, numbered, and each with the first place that was free when it left: as many users as
    requests were outstanding. Tools do not record which user sent what."""
    ordered = sorted(records, key=lambda record: (record.sent_ns, record.done_ns))
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    made = []
    for seq, record in enumerate(ordered):
        while busy and busy[0][0] <= record.sent_ns:
            heapq.heappush(free, heapq.heappop(busy)[1])
        user = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (max(record.done_ns, record.sent_ns), user))
        made.append(replace(record, seq=seq, user=user))
    return tuple(made)


def most_outstanding(records: Sequence[RequestRecord]) -> int:
    """Requests that were under way at one time, at most; 1 for none."""
    return len({record.user for record in with_users(records)}) or 1
