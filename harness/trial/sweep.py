"""The levels of a sweep, all measured in one launch: which of them hold, and which one the trial is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.choose.goals import Goals
from harness.level import Level
from harness.measure.levels import at_level, level_in, without_level
from harness.measure.metrics import metric_row, metrics_in
from harness.records import Doubt, Metric, TrialSummary

MAX_ERROR_FRAC = 0.01
"""Share of failed requests from which a level does not hold, where no constraint bounds error_frac."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One level of a sweep as it was measured; `why` is '' where every constraint on no particular level held."""

    level: Level
    summary: TrialSummary
    why: str


def why_broken(goals: Goals, metrics: Mapping[str, Metric], load: Level | None = None) -> str:
    """'' or the first constraint on no particular level, or on this `load` of a list, that these numbers break. What a
    window alone cannot tell (quality, cost) is judged with the trial."""
    limits = [
        replace(limit, metric=without_level(limit.metric))
        for limit in goals.limits
        if level_in(limit.metric) in (None, load)
    ]
    if "error_frac" not in [limit.metric for limit in limits] and metrics["error_frac"].value > MAX_ERROR_FRAC:
        return f"error_frac {metrics['error_frac'].value:.4g} > {MAX_ERROR_FRAC:g}"
    for limit in limits:
        if limit.metric in metrics and (check := limit.check_metric(metrics[limit.metric])).excess_frac > 0:
            return check.sentence
    return ""


def own_index(goals: Goals, measured: Sequence[Measured]) -> int:
    """The place of the level that a trial is judged by where a goal names none: the level of the first objective; where
    that names none either, the one with its best value among those that held. The first level, if none held; the first
    load of a list, whose numbers no rule compares."""
    first = goals.objectives[0]
    if (level := level_in(first.judged[0])) is not None:
        return next((i for i, one in enumerate(measured) if one.level == level), 0)
    if measured[0].level.axis == "load":
        return 0
    held = [i for i, one in enumerate(measured) if not one.why]
    row = metric_row(first.metric)
    if not held or row is None or row.source != "load":
        return held[-1] if held else 0
    if first.metric == "load_level":
        return held[-1]
    return min(held, key=lambda i: first.cost(measured[i].summary.metrics.get(first.metric)))


def level_metric(level: Level) -> Metric:
    """The level as a metric."""
    unit = "users" if level.axis == "users" else "requests/s"
    return Metric(value=level.value, unit=unit, estimator="the level of the sweep that the numbers are of", n=1)


def asked_levels(goals: Goals) -> dict[Level, set[str]]:
    """The levels that goals name, each with the metrics that are judged there."""
    asked: dict[Level, set[str]] = {}
    judged = (name for one in goals.objectives for name in one.judged)
    for name in (*judged, *(limit.metric for limit in goals.limits)):
        if (level := level_in(name)) is not None:
            asked.setdefault(level, set()).add(without_level(name))
    return asked


def with_levels(goals: Goals, measured: Sequence[Measured], own: int) -> TrialSummary:
    """The summary of the trial's own level with the other levels' numbers under names such as
    'latency_p99_ms@users=16', and with the doubts about those that a goal names."""
    asked = asked_levels(goals)
    shown = {row.name for row in metrics_in("probe")}
    summary = measured[own].summary
    metrics = dict(summary.metrics)
    if measured[own].level.axis != "load":
        metrics["load_level"] = level_metric(measured[own].level)
    for one in measured:
        wanted = shown | asked.get(one.level, set())
        metrics |= {at_level(name, one.level): m for name, m in one.summary.metrics.items() if name in wanted}
    doubts = [
        Doubt(kind=doubt.kind, sentence=f"at {one.level.text}: {doubt.sentence}")
        for place, one in enumerate(measured)
        if place != own and one.level in asked
        for doubt in one.summary.doubts
    ]
    return replace(summary, metrics=metrics).doubted(doubts)
