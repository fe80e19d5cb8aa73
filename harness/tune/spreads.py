"""The spread of launches of one candidate, pooled per engine: their luck, which all requests of a launch share.

It is known from launches of the same candidate in this run (finalists, anchors) and in earlier runs like it; until two
degrees of freedom know it, it is assumed, as in the gate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.measure.metrics import metric_of
from harness.records import Trial

ASSUMED_PAIR_FRAC = 0.05
"""Standard deviation between two launches of one candidate, until it is known: the gate's assumption."""
KNOWN_FROM = 2
"""Degrees of freedom from which an engine's own spread is used, as in the gate."""
LEAST_MARGIN_FRAC = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Squares:
    """What launches add to a variance: the squares of their differences from the mean of their candidate, summed, in
    the logarithm of a metric, the degrees of freedom in them, and how many earlier runs they come from."""

    total: float = 0.0
    freedom: int = 0
    runs: int = 0

    def __add__(self, other: Squares) -> Squares:
        return Squares(
            total=self.total + other.total, freedom=self.freedom + other.freedom, runs=self.runs + other.runs
        )


Earlier = Mapping[str, Squares]
"""Engine -> what earlier runs know of its launches."""
NOTHING_EARLIER: Earlier = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The standard deviation of one launch's logarithm around its candidate's mean, of an engine, by launches of this
    run with `own` degrees of freedom and those of earlier runs; neither: assumed."""

    engine: str
    frac: float
    own: int = 0
    earlier: Squares = Squares()

    @property
    def text(self) -> str:
        """'two launches of t5 differ by 1.7 % (this run, 6 degrees of freedom)'."""
        there = f"{self.earlier.runs} earlier run{'' if self.earlier.runs == 1 else 's'}" if self.earlier.runs else ""
        source = " and ".join(filter(None, ("this run" if self.own else "", there)))
        freedom = self.own + self.earlier.freedom
        how = f"{source}, {freedom} degrees of freedom" if source else "assumed: too few launches were repeated"
        return f"two launches of {self.engine} differ by {100 * math.sqrt(2) * self.frac:.2g} % ({how})"


def squares(trials: Iterable[Trial], metric: str) -> dict[str, Squares]:
    """Engine -> how its candidates that were launched more than once differed. Of a finalist with two repetitions or
    more these alone count: its first launch made it one, and a machine may have drifted since."""
    launches: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    for trial in trials:
        found = metric_of(trial, metric)
        if trial.outcome == "ok" and found is not None and found.value > 0:
            key = trial.candidate.engine, trial.candidate.candidate_id
            launches.setdefault(key, []).append((trial.repetition > 0, math.log(found.value)))
    pooled: dict[str, Squares] = {}
    for (engine, _), measured in launches.items():
        again = [value for is_repetition, value in measured if is_repetition]
        values = again if len(again) > 1 else [value for _, value in measured]
        mean = sum(values) / len(values)
        mine = Squares(total=sum((value - mean) ** 2 for value in values), freedom=len(values) - 1)
        pooled[engine] = pooled.get(engine, Squares()) + mine
    return pooled


def spread_of(engine: str, trials: Iterable[Trial], metric: str, earlier: Earlier) -> Spread:
    """What is known of the launches of `engine` after these trials of a run."""
    own, before = squares(trials, metric).get(engine, Squares()), earlier.get(engine, Squares())
    both = own + before
    if both.freedom < KNOWN_FROM:
        return Spread(engine=engine, frac=ASSUMED_PAIR_FRAC / math.sqrt(2))
    return Spread(engine=engine, frac=math.sqrt(both.total / both.freedom), own=own.freedom, earlier=before)


def margin_frac(one: Spread, other: Spread, launches: int = 1) -> float:
    """Twice the spread between a launch of the one engine and the mean of so many of the other, LEAST_MARGIN_FRAC at
    least."""
    return max(LEAST_MARGIN_FRAC, 2 * math.hypot(one.frac, other.frac / math.sqrt(launches)))
