"""The numbers that a server published about itself during one load, on the clock of the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from engines.metrics_page import GAUGES, Meaning

MEANINGS: tuple[Meaning, ...] = get_args(Meaning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """The numbers of one answer; `at_ns` is the middle between question and answer, `took_ns` the time between them."""

    at_ns: int
    took_ns: int
    values: Mapping[Meaning, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """The scrapes of one load in order. `unavailable` is '' or why there is none; `missed` counts the questions that
    were not answered in time, or with something else. `slots` are those that keep requests, and the tokens of each;
    (0, 0) where the server named none."""

    scrapes: tuple[Scrape, ...] = ()
    unavailable: str = ""
    missed: int = 0
    slots: tuple[int, int] = (0, 0)

    def within(self, begin_ns: int, end_ns: int) -> tuple[Scrape, ...]:
        """Those between two times."""
        return tuple(scrape for scrape in self.scrapes if begin_ns <= scrape.at_ns <= end_ns)

    def around(self, begin_ns: int, end_ns: int) -> tuple[Scrape, ...]:
        """Those between two times, with the last one before and the first one after: what a counter grew by."""
        before = [scrape for scrape in self.scrapes if scrape.at_ns < begin_ns]
        after = [scrape for scrape in self.scrapes if scrape.at_ns > end_ns]
        return (*before[-1:], *self.within(begin_ns, end_ns), *after[:1])

    def columns(self) -> dict[str, list[float | None]]:
        """As stored: `t_ns`, `took_ms`, then each meaning that was published at all; counters as they stood."""
        known = [name for name in MEANINGS if any(name in scrape.values for scrape in self.scrapes)]
        columns: dict[str, list[float | None]] = {
            "t_ns": [scrape.at_ns for scrape in self.scrapes],
            "took_ms": [scrape.took_ns / 1e6 for scrape in self.scrapes],
        }
        return columns | {name: [scrape.values.get(name) for scrape in self.scrapes] for name in known}


def series(scrapes: Sequence[Scrape], name: Meaning) -> list[float]:
    """The values of a meaning, where it was published."""
    return [scrape.values[name] for scrape in scrapes if name in scrape.values]


def increase(scrapes: Sequence[Scrape], name: Meaning) -> float | None:
    """What a counter grew by; one that fell has begun again at 0. None for fewer than two values."""
    assert name not in GAUGES
    values = series(scrapes, name)
    if len(values) < 2:
        return None
    return sum(now - before if now >= before else now for before, now in pairwise(values))
