"""The geometric mean of several figures of one launch, as one number that is larger where they are better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.level import Level
from harness.measure.levels import level_in
from harness.records import Metric, TrialSummary

NAME = "geometric_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One of the figures: a metric's name, perhaps at a level, and which way is better."""

    metric: str
    is_minimized: bool


def with_geometric_mean(summary: TrialSummary, figures: Sequence[Figure]) -> TrialSummary:
    """The summary with the mean of its `figures`, or with why there is none; unchanged where there are no figures."""
    if not figures:
        return summary
    found = {one.metric: summary.metrics.get(one.metric) for one in figures}
    wrong = [f"{name} was not measured" for name, metric in found.items() if metric is None]
    wrong += [
        f"{one.metric} is 0, which has no 1/value"
        for one in figures
        if one.is_minimized and (metric := found[one.metric]) is not None and metric.value <= 0
    ]
    if wrong:
        return replace(summary, unavailable={**summary.unavailable, NAME: wrong[0]})
    mean = geometric_mean(figures, [metric for metric in found.values() if metric is not None])
    return replace(summary, metrics={**summary.metrics, NAME: mean})


def geometric_mean(figures: Sequence[Figure], metrics: Sequence[Metric]) -> Metric:
    """The geometric mean of positive values, those to minimize as 1/value; 0 where one to maximize is 0.

    The interval is that of a sum of logarithms by the distances of its parts' limits from their values (MOVER: Zou and
    Donner, Statistics in Medicine 27, 2008). Figures of one window are of the same requests and may move together:
    their distances are added, which covers any correlation. Windows hold different requests: their distances are added
    as independent ones, by squares. No limit where a figure has none on that side. As the figures' own intervals, it
    holds for this launch; what launches differ by, only further launches show.
    """
    pairs = list(zip(figures, metrics, strict=True))
    sides = [_oriented(one, metric) for one, metric in pairs]
    units = {f"1/{metric.unit}" if one.is_minimized else metric.unit for one, metric in pairs}
    values = [value for value, _, _ in sides]
    mean = 0.0 if min(values) <= 0 else math.exp(math.fsum(map(math.log, values)) / len(values))
    levels = [level_in(one.metric) for one in figures]
    below = None if mean == 0 else _distance(levels, [_log_ratio(value, low) for value, low, _ in sides])
    above = None if mean == 0 else _distance(levels, [_log_ratio(high, value) for value, _, high in sides])
    return Metric(
        value=mean,
        unit=units.pop() if len(units) == 1 else "1",
        estimator=f"geometric mean of {len(metrics)} figures",
        method="none" if below is None and above is None else "mover",
        n=min(metric.n for metric in metrics),
        low=None if below is None else mean * math.exp(-below),
        high=None if above is None else mean * math.exp(above),
        note="of " + ", ".join(f"{one.metric} {metric.value:.4g}" for one, metric in pairs),
    )


Side = tuple[float, float | None, float | None]


def _oriented(figure: Figure, metric: Metric) -> Side:
    """Value, low and high of the figure, turned so that larger is better."""
    if not figure.is_minimized:
        return metric.value, metric.low, metric.high
    low = None if metric.high is None else 1 / metric.high
    return 1 / metric.value, low, None if not metric.low else 1 / metric.low


def _log_ratio(larger: float | None, smaller: float | None) -> float | None:
    """How far apart they are, as a logarithm; None where one is not there or is 0."""
    return math.log(larger / smaller) if larger and smaller and smaller > 0 else None


def _distance(levels: Sequence[Level | None], distances: Sequence[float | None]) -> float | None:
    """The distance of the mean's limit from its value, of the logarithm; None where one of `distances` is."""
    of_window: dict[Level | None, float] = {}
    for level, distance in zip(levels, distances, strict=True):
        if distance is None:
            return None
        of_window[level] = of_window.get(level, 0.0) + distance
    return math.hypot(*of_window.values()) / len(distances)
