"""What a run was asked to reach: objectives and constraints, read from the scenario in its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import MeasurementInvalid
from harness.measure.metrics import metric_of
from harness.records import Metric, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A metric and which way is better."""

    metric: str
    is_minimized: bool

    def cost(self, value: float) -> float:
        """`value` turned so that smaller is better."""
        return value if self.is_minimized else -value


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The range a metric must stay in, ends included; None: no bound on that side."""

    metric: str
    low: float | None
    high: float | None

    def excess_frac(self, trial: Trial) -> float:
        """By how much of the bound the trial is outside; 0.0 inside, infinity where it was not measured."""
        metric = metric_of(trial, self.metric)
        if metric is None:
            return float("inf")
        over = metric.value - self.high if self.high is not None else 0.0
        under = self.low - metric.value if self.low is not None else 0.0
        bound = (self.high if over >= under else self.low) or 1.0
        return max(over, under, 0.0) / abs(bound)

    def room(self, metric: Metric) -> str:
        """How far inside: '61.2 of at most 500 ms'."""
        words = []
        if self.high is not None:
            words.append(f"at most {self.high:g}")
        if self.low is not None:
            words.append(f"at least {self.low:g}")
        unit = "" if metric.unit == "frac" else f" {metric.unit}"
        return f"{self.metric} {metric.value:.4g} of {' and '.join(words)}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """Objectives and constraints of one run."""

    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...]
    needs_normal_quality: bool

    def uses(self, metric: str) -> bool:
        """Whether the choice depends on that metric."""
        named = [objective.metric for objective in self.objectives] + [limit.metric for limit in self.limits]
        return metric in named


def goals_of(scenario: Mapping[str, Any]) -> Goals:
    """The goals in a stored scenario. Raises MeasurementInvalid when it names no objective."""
    objectives = tuple(
        Objective(metric=row["metric"], is_minimized=row["goal"] == "minimize")
        for row in scenario.get("objectives", ())
    )
    if not objectives:
        raise MeasurementInvalid("run.json: scenario.objectives: expected at least one objective, got none")
    constraints = scenario.get("constraints", {})
    limits = tuple(
        Limit(metric=name, low=bound.get("min"), high=bound.get("max"))
        for name, bound in constraints.items()
        if isinstance(bound, Mapping)
    )
    return Goals(objectives=objectives, limits=limits, needs_normal_quality=constraints.get("quality") == "Normal")
