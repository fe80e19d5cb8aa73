"""What better means, and by how much a trial breaks what must hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.measure.metrics import metric_of
from harness.records import Trial
from harness.scenario.schema import Bound, Scenario

FAILURE_EXCESS = 1000.0
"""Constraint value of a candidate that did not run: above any metric's excess in practice, so it ranks last."""


def violations(trial: Trial, scenario: Scenario) -> tuple[str, ...]:
    """One sentence per broken constraint; empty when all hold. A metric that was not measured breaks its constraint."""
    return tuple(sentence for _, excess, sentence in _checks(trial, scenario) if excess > 0)


def excesses(trial: Trial, scenario: Scenario) -> dict[str, float]:
    """Constraint name -> by what fraction of its bound it is broken (> 0) or kept (<= 0), for the sampler."""
    failed = trial.outcome != "ok"
    values = {"ran": FAILURE_EXCESS if failed else -1.0}
    if not failed:
        values.update({name: excess for name, excess, _ in _checks(trial, scenario)})
    return values


def objective_values(trial: Trial, scenario: Scenario) -> tuple[float, ...]:
    """One value per objective; the worst possible where it was not measured (such a trial is infeasible anyway)."""
    values = []
    for objective in scenario.objectives:
        metric = metric_of(trial, objective.metric)
        worst = float("inf") if objective.goal == "minimize" else float("-inf")
        values.append(metric.value if metric is not None and math.isfinite(metric.value) else worst)
    return tuple(values)


def rank_key(trials: Sequence[Trial], scenario: Scenario) -> tuple[float, ...]:
    """Sort key of one candidate, smaller is better: its mean objectives over `trials`, first objective first."""
    sums = [0.0] * len(scenario.objectives)
    for trial in trials:
        for index, value in enumerate(objective_values(trial, scenario)):
            sign = 1.0 if scenario.objectives[index].goal == "minimize" else -1.0
            sums[index] += sign * value / len(trials)
    return tuple(sums)


def _checks(trial: Trial, scenario: Scenario) -> list[tuple[str, float, str]]:
    """(name, excess, sentence) of every constraint and of every objective that has no value."""
    checks = [
        _quality_check(trial) if isinstance(limit, str) else _bound_check(trial, name, limit)
        for name, limit in scenario.constraints.items()
    ]
    for objective in scenario.objectives:
        if metric_of(trial, objective.metric) is None:
            name = objective.metric
            checks.append((f"objective {name}", FAILURE_EXCESS, f"{name} was not measured, expected a value"))
    rate = metric_of(trial, "max_rate_rps")
    if rate is not None and rate.value == 0:
        checks.append(("max_rate_rps", FAILURE_EXCESS, f"max_rate_rps 0: {rate.note}"))
    return checks


def _quality_check(trial: Trial) -> tuple[str, float, str]:
    if trial.quality is None:
        return "quality", 1.0, "quality Unknown: it was not checked, expected Normal"
    if trial.quality.verdict == "Normal":
        return "quality", -1.0, ""
    excess = {"Degraded": 1.0, "Unknown": 2.0, "Broken": 10.0}[trial.quality.verdict]
    return "quality", excess, f"quality {trial.quality.verdict}, expected Normal: {trial.quality.reason}"


def _bound_check(trial: Trial, name: str, bound: Bound) -> tuple[str, float, str]:
    metric = metric_of(trial, name)
    if metric is None or math.isnan(metric.value):
        return name, 1.0, f"{name} was not measured, expected {_range(bound)}"
    over = -1.0 if bound.max is None else (metric.value - bound.max) / _scale(bound.max)
    under = -1.0 if bound.min is None else (bound.min - metric.value) / _scale(bound.min)
    excess = min(max(over, under), FAILURE_EXCESS)
    unit = f" {metric.unit}" if metric.unit else ""
    return name, excess, f"{name} {metric.value:.4g}{unit}, expected {_range(bound)}{unit}"


def _scale(bound: float) -> float:
    """What an excess is divided by: the bound itself; 1 for a bound of 0 (error_frac max 0 is already a fraction)."""
    return abs(bound) or 1.0


def _range(bound: Bound) -> str:
    parts = [f"at least {bound.min:g}"] if bound.min is not None else []
    parts += [f"at most {bound.max:g}"] if bound.max is not None else []
    return " and ".join(parts)
