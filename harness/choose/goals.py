"""A scenario's goals (objectives and constraints): comparing two candidates, and by how much a bound is broken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import MeasurementInvalid, StaleScenario
from harness.measure.geometric_mean import NAME, Figure
from harness.measure.metrics import metric_of
from harness.records import Metric, Trial
from harness.scenario import goals as scenario_goals
from harness.scenario.geometric_mean import GeometricMean
from harness.scenario.goals import At, Bound, named
from harness.scenario.load_list import names_over
from harness.scenario.schema import Scenario
from harness.store.reader import Run

FAILURE_EXCESS = 1000.0
"""Excess of a candidate that did not run: above any metric's in practice, so it ranks last."""

QUALITY_EXCESS = {"Normal": -1.0, "Degraded": 1.0, "Unknown": 2.0, "Broken": 10.0}

QualityGoal = Literal["Normal", "unless worse", "any"]
"""What a scenario accepts: answers shown to be inside the margin; answers not shown to be outside it, where nothing is
written; whatever was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A metric and which way is better; of a geometric mean, the `figures` that it is of."""

    metric: str
    is_minimized: bool
    figures: tuple[Figure, ...] = ()

    @property
    def judged(self) -> tuple[str, ...]:
        """The metrics, with their levels, that decide it."""
        return tuple(one.metric for one in self.figures) or (self.metric,)

    def cost(self, metric: Metric | None) -> float:
        """The value turned so that smaller is better; infinity where it was not measured or is no number."""
        if metric is None or not math.isfinite(metric.value):
            return math.inf
        return metric.value if self.is_minimized else -metric.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must hold of a trial. `excess_frac`: by what fraction of its bound it is broken (> 0) or kept
    (<= 0); `sentence` states what broke."""

    name: str
    excess_frac: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The range a metric must stay in, ends included; None: no bound on that side."""

    metric: str
    low: float | None
    high: float | None

    def check(self, trial: Trial) -> Check:
        """By how much the trial is outside; a metric that was not measured, or is no number, is outside by 1.0."""
        return self.check_metric(metric_of(trial, self.metric))

    def check_metric(self, metric: Metric | None) -> Check:
        """By how much a measured value is outside."""
        if metric is None or math.isnan(metric.value):
            sentence = f"{self.metric} was not measured, expected {self.range()}"
            return Check(name=self.metric, excess_frac=1.0, sentence=sentence)
        over = -1.0 if self.high is None else (metric.value - self.high) / _scale(self.high)
        under = -1.0 if self.low is None else (self.low - metric.value) / _scale(self.low)
        unit = f" {metric.unit}" if metric.unit else ""
        sentence = f"{self.metric} {metric.value:.4g}{unit}, expected {self.range()}{unit}"
        return Check(name=self.metric, excess_frac=min(max(over, under), FAILURE_EXCESS), sentence=sentence)

    def room(self, metric: Metric) -> str:
        """How far inside: '61.2 of at most 500 ms'."""
        unit = "" if metric.unit == "frac" else f" {metric.unit}"
        return f"{self.metric} {metric.value:.4g} of {self.range()}{unit}"

    def range(self) -> str:
        """'at least 0.9', 'at most 500', or both."""
        parts = [f"at least {self.low:g}"] if self.low is not None else []
        parts += [f"at most {self.high:g}"] if self.high is not None else []
        return " and ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """Objectives and constraints of one scenario: what the search, the choice and the report judge by."""

    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...]
    quality: QualityGoal

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures of the geometric mean; () where it is no objective."""
        return tuple(figure for one in self.objectives for figure in one.figures)

    def checks(self, trial: Trial) -> tuple[Check, ...]:
        """Every constraint, kept or broken, every objective that has no value, and that requests were answered."""
        checks = _quality_checks(trial, self.quality)
        checks += [limit.check(trial) for limit in self.limits]
        for objective in self.objectives:
            if objective.cost(metric_of(trial, objective.metric)) == math.inf:
                sentence = f"{objective.metric} was not measured, expected a value"
                checks.append(
                    Check(name=f"objective {objective.metric}", excess_frac=FAILURE_EXCESS, sentence=sentence)
                )
        errors = metric_of(trial, "error_frac")
        if errors is not None and errors.value == 1.0:
            sentence = f"not one of {errors.n} requests was answered in time"
            checks.append(Check(name="answers", excess_frac=FAILURE_EXCESS, sentence=sentence))
        rate = metric_of(trial, "max_rate_rps")
        if rate is not None and rate.value == 0:
            sentence = f"max_rate_rps 0: {rate.note}"
            checks.append(Check(name="max_rate_rps", excess_frac=FAILURE_EXCESS, sentence=sentence))
        return tuple(checks)

    def violations(self, trial: Trial) -> tuple[str, ...]:
        """One sentence per broken constraint; empty when all hold."""
        return tuple(check.sentence for check in self.checks(trial) if check.excess_frac > 0)

    def excesses(self, trial: Trial) -> dict[str, float]:
        """Constraint name -> excess_frac, for the sampler, the largest of several of one name; of a trial that did not
        run, only 'ran'. What a trial that ended early did not measure counts as kept."""
        if not trial.has_numbers:
            return {"ran": FAILURE_EXCESS}
        limited = {limit.metric for limit in self.limits} if trial.outcome == "ended_early" else set[str]()
        unknown = {name for name in limited if metric_of(trial, name) is None}
        excesses = {"ran": -1.0}
        for check in self.checks(trial):
            excess_frac = -1.0 if check.name in unknown else check.excess_frac
            excesses[check.name] = max(excess_frac, excesses.get(check.name, -math.inf))
        return excesses

    def costs(self, trial: Trial) -> tuple[float, ...]:
        """One cost per objective, the first one first."""
        return tuple(objective.cost(metric_of(trial, objective.metric)) for objective in self.objectives)


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether costs are at least as good in every objective and better in one."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def goals_of(scenario: Scenario) -> Goals:
    """The goals of a scenario; where its load is a list, a constraint on none of them holds for each."""
    bounds = {name: bound for name, bound in scenario.constraints.items() if isinstance(bound, Bound)}
    return Goals(
        objectives=tuple(map(_objective, scenario.objectives)),
        limits=tuple(
            Limit(metric=each, low=bound.min, high=bound.max)
            for name, bound in bounds.items()
            for each in names_over(scenario.workload.load, named(name, bound.at))
        ),
        quality=_quality_goal(scenario.constraints.get("quality")),
    )


def _objective(written: scenario_goals.Objective | GeometricMean) -> Objective:
    figures = written.geometric_mean if isinstance(written, GeometricMean) else ()
    return Objective(
        metric=written.name,
        is_minimized=written.goal == "minimize",
        figures=tuple(Figure(metric=one.name, is_minimized=one.goal == "minimize") for one in figures),
    )


def run_goals(run: Run) -> Goals:
    """The goals of a stored run. Raises MeasurementInvalid when it names no objective."""
    try:
        return goals_of(run.resolved.scenario)
    except StaleScenario:
        return _goals_as_written(run.manifest.scenario)


def _goals_as_written(scenario: Mapping[str, Any]) -> Goals:
    """The goals of a run whose scenario this version no longer accepts (an engine that is gone, a renamed field), so
    that it can still be reported and chosen from."""
    objectives = tuple(
        Objective(metric=NAME, is_minimized=False)
        if NAME in row
        else Objective(metric=_written_name(row["metric"], row), is_minimized=row["goal"] == "minimize")
        for row in scenario.get("objectives", ())
    )
    if not objectives:
        raise MeasurementInvalid("run.json: scenario.objectives: expected at least one objective, got none")
    constraints = scenario.get("constraints", {})
    limits = tuple(
        Limit(metric=_written_name(name, bound), low=bound.get("min"), high=bound.get("max"))
        for name, bound in constraints.items()
        if isinstance(bound, Mapping)
    )
    return Goals(objectives=objectives, limits=limits, quality=_quality_goal(constraints.get("quality")))


def _written_name(metric: str, goal: Mapping[str, Any]) -> str:
    """The metric of a stored goal, with its level."""
    at = goal.get("at")
    return named(metric, At(**at) if at else None)


def _quality_goal(written: object) -> QualityGoal:
    if written == "any":
        return "any"
    return "Normal" if written == "Normal" else "unless worse"


def _quality_checks(trial: Trial, goal: QualityGoal) -> list[Check]:
    """The check of a trial's answers, where the goal asks for one."""
    if goal == "any":
        return []
    if trial.quality is None or trial.quality.verdict == "Unknown":
        if goal == "unless worse":  # nothing is known against it
            return []
        why = trial.quality.reason if trial.quality is not None else "it was not checked"
        return [Check(name="quality", excess_frac=1.0, sentence=f"quality Unknown, expected Normal: {why}")]
    verdict = trial.quality.verdict
    sentence = f"quality {verdict}, expected Normal: {trial.quality.reason}"
    return [Check(name="quality", excess_frac=QUALITY_EXCESS[verdict], sentence=sentence)]


def _scale(bound: float) -> float:
    """What an excess is divided by: the bound itself; 1 for a bound of 0 (error_frac max 0 is already a fraction)."""
    return abs(bound) or 1.0
