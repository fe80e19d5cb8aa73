"""The time budget of a search: how much is spent, and whether the next trial still fits."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from harness.clock import Clock
from harness.records import Candidate, Trial
from harness.units import NS_PER_S, format_duration

RESERVE_FRAC = 0.3
"""At most this share of the time is kept back for measuring the finalists again and for the verification."""


class Budget:
    """Wall-clock seconds of a search, continued over resumes; trials last as long as their phases did."""

    def __init__(self, limit_s: float, clock: Clock, spent_before_s: float = 0.0) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._start_ns = clock.now_ns() - int(spent_before_s * NS_PER_S)
        self._durations_s: dict[str, list[float]] = {}

    def spent_s(self) -> float:
        """Seconds used so far, earlier sessions included."""
        return (self._clock.now_ns() - self._start_ns) / NS_PER_S

    def note(self, trial: Trial, duration_s: float) -> None:
        """Remember how long a launched trial took."""
        self._durations_s.setdefault(trial.candidate.engine, []).append(duration_s)

    def expected_s(self, engine: str) -> float:
        """Seconds the next trial of `engine` should take: the median of its past ones, else of all; 0 if unknown.

        The median, because the first trial of an engine may hold a conversion that later ones find in the cache.
        """
        past = self._durations_s.get(engine) or [each for times in self._durations_s.values() for each in times]
        return median(past) if past else 0.0

    def why_stop(self, candidate: Candidate, reserve_s: float = 0.0) -> str | None:
        """None when a trial of `candidate` still fits before the limit less `reserve_s`; else the sentence why not."""
        spent_s, expected_s = self.spent_s(), self.expected_s(candidate.engine)
        reserve_s = min(reserve_s, RESERVE_FRAC * self.limit_s)
        if spent_s + expected_s + reserve_s <= self.limit_s:
            return None
        kept = f", {format_duration(reserve_s)} are kept for what follows" if reserve_s else ""
        return (
            f"time budget: {format_duration(spent_s)} of {format_duration(self.limit_s)} used, the next trial "
            f"({candidate.engine}) would take about {format_duration(expected_s)}{kept}"
        )


def stored_duration_s(trials: Sequence[Trial]) -> float:
    """Seconds that the trials of an earlier session took together."""
    return sum(trial.duration_s for trial in trials)
