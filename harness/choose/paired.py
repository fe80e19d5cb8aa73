"""Finalists compared launch by launch: the chance that one is better than another, and the spread over launches.

A round launches every finalist once, and all see the same requests in it. The difference of a pair within one round is
therefore free of what drifts between rounds. The search's own measurement is left out: it made the finalist one.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev

from harness.choose.goals import Goals
from harness.choose.repetitions import MIN_ROUNDS, Pooled
from harness.measure.metrics import metric_of
from harness.measure.statistics.distributions import t_cdf

CANNOT_TELL = 0.10
"""From this chance of being better on, two finalists cannot be distinguished."""


def pairs(one: Pooled, other: Pooled, goals: Goals) -> tuple[float, ...]:
    """By how much `one` costs more than `other` in the first objective, round by round: logarithms of the ratio where
    all values are positive, else plain differences."""
    mine, its = _rounds(one, goals), _rounds(other, goals)
    sign = 1 if goals.objectives[0].is_minimized else -1
    both = [(mine[number], its[number]) for number in sorted(mine.keys() & its.keys())]
    if all(a > 0 and b > 0 for a, b in both):
        return tuple(sign * math.log(a / b) for a, b in both)
    return tuple(sign * (a - b) for a, b in both)


def chance_better(one: Pooled, other: Pooled, goals: Goals) -> float | None:
    """The chance that `one` is truly better than `other` in the only objective; None below MIN_ROUNDS rounds.

    Student's t of the paired differences, read as the posterior of their mean under a flat prior.
    """
    differences = pairs(one, other, goals)
    if len(goals.objectives) > 1 or len(differences) < MIN_ROUNDS:
        return None
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    if error == 0:
        return 0.5 if mean == 0 else float(mean < 0)
    return t_cdf(-mean / error, len(differences) - 1)


def launch_spread_frac(one: Pooled, goals: Goals) -> float | None:
    """The standard deviation of the first objective's logarithm over the launches of a finalist; None below MIN_ROUNDS
    of them, or where a value is not positive."""
    name = goals.objectives[0].metric
    values = [metric.value for trial in one.counted if (metric := metric_of(trial, name)) is not None]
    if not one.is_confirmed or len(values) < MIN_ROUNDS or min(values) <= 0:
        return None
    return stdev(map(math.log, values))


def _rounds(one: Pooled, goals: Goals) -> dict[int, float]:
    """Round -> value of the first objective."""
    found = ((trial.repetition, metric_of(trial, goals.objectives[0].metric)) for trial in one.telling)
    return {number: metric.value for number, metric in found if number and metric is not None}
