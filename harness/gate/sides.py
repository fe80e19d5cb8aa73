"""The two sides that the gate compares: the runs, their common candidates, and a candidate's launches on each side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from harness.gate.launches import Launch, Scale, launches, scale_of
from harness.gate.pairing import Match
from harness.store.pairs import Pairs
from harness.store.reader import Run

SITTINGS_FROM = 3
"""Baseline runs from which the spread between runs, drift of the machine included, is estimated from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The runs, their common candidates, and how they were measured."""

    baselines: tuple[Run, ...]
    candidate: Run
    matches: tuple[Match, ...]
    pairs: Pairs | None


@dataclass(frozen=True, kw_only=True)  # no slots: what is asked for often is kept
class Values:
    """The launches of one candidate on both sides, on the analysis scale (logs, or as they are)."""

    groups: tuple[tuple[Launch, ...], ...]
    now: tuple[Launch, ...]
    scale: Scale
    pairs: tuple[tuple[str, str], ...]

    def at(self, launch: Launch) -> float:
        return math.log(launch.value) if self.scale == "log" else launch.value

    @cached_property
    def before(self) -> tuple[Launch, ...]:
        return tuple(launch for group in self.groups for launch in group)

    @cached_property
    def differences(self) -> list[float]:
        """Candidate minus baseline of every pair that has both."""
        first = {launch.trial_id: self.at(launch) for launch in self.before}
        second = {launch.trial_id: self.at(launch) for launch in self.now}
        return [second[two] - first[one] for one, two in self.pairs if one in first and two in second]

    @property
    def compared(self) -> tuple[tuple[Launch, ...], tuple[Launch, ...]]:
        """The launches behind the estimate: those in whole pairs where there are any, else all."""
        if not self.differences:
            return self.before, self.now
        ids = [{x.trial_id for x in side} for side in (self.before, self.now)]
        whole = [pair for pair in self.pairs if pair[0] in ids[0] and pair[1] in ids[1]]
        ones, others = {one for one, _ in whole}, {other for _, other in whole}
        return tuple(x for x in self.before if x.trial_id in ones), tuple(x for x in self.now if x.trial_id in others)

    @cached_property
    def units(self) -> tuple[list[float], list[float]]:
        """Launch values; means of whole runs where there are enough baseline runs."""
        if len(self.groups) < SITTINGS_FROM:
            return [self.at(x) for x in self.before], [self.at(x) for x in self.now]
        sittings = [fmean(self.at(x) for x in group) for group in self.groups if group]
        return sittings, [fmean(self.at(x) for x in self.now)] if self.now else []

    @property
    def sampling_variance(self) -> float:
        """Mean squared standard error of a launch; 0 where it is not known."""
        known = [x.sampling**2 for x in (*self.before, *self.now) if x.sampling is not None]
        return fmean(known) if known else 0.0


def values_of(sides: Sides, match: Match, name: str) -> Values:
    """The launches of a candidate that have the metric, compared on the scale that suits it."""
    groups = tuple(
        launches(run.root, trials, name) for run, trials in zip(sides.baselines, match.baseline, strict=True)
    )
    now = launches(sides.candidate.root, match.candidate, name)
    is_positive = all(launch.value > 0 for launch in (*(x for group in groups for x in group), *now))
    scale = scale_of(name) if is_positive else "linear"
    pairs = sides.pairs.trial_ids if sides.pairs is not None else ()
    return Values(groups=groups, now=now, scale=scale, pairs=pairs)


def central(values: Values, side: Sequence[Launch]) -> float | None:
    """The mean of some launches, geometric on the log scale; None without any."""
    if not side:
        return None
    mean = fmean(values.at(launch) for launch in side)
    return math.exp(mean) if values.scale == "log" else mean
