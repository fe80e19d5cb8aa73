"""Trials of unequal machines, scaled to what their machine class would have measured: for the search alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.measure.geometric_mean import Figure, with_geometric_mean
from harness.measure.machine.calibration import is_rate
from harness.records import Metric, Trial


def scaled(trial: Trial, scales: Mapping[str, float], figures: Sequence[Figure]) -> Trial:
    """The trial with its times and rates divided by how slow its machine is against the class; what is stored and
    reported stays as it was measured. The geometric mean is made anew from its `figures`, whose units its own does not
    name. A candidate may differ between machines by more than its machine does."""
    slowness = scales.get(trial.machine, 1.0)
    if trial.summary is None or slowness == 1.0:
        return trial
    metrics = {name: _scaled(metric, slowness) for name, metric in trial.summary.metrics.items()}
    race = trial.race
    if race is not None and (raced := trial.summary.metrics.get(race.metric)) is not None:
        # What it raced against was measured on the same machine.
        race = replace(race, against_value=_scaled(replace(raced, value=race.against_value), slowness).value)
    summary = with_geometric_mean(replace(trial.summary, metrics=metrics), figures)
    return replace(trial, summary=summary, race=race)


def _scaled(metric: Metric, slowness: float) -> Metric:
    if metric.unit != "ms" and not is_rate(metric.unit):
        return metric
    factor = slowness if is_rate(metric.unit) else 1 / slowness
    low, high = (None if end is None else end * factor for end in (metric.low, metric.high))
    return replace(metric, value=metric.value * factor, low=low, high=high)
