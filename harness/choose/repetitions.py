"""Repetitions of one candidate pooled into one result, before the choice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.choose.goals import Goals
from harness.measure.levels import level_in, without_level
from harness.measure.metrics import metric_of
from harness.records import NOT_MEASURED, Candidate, Doubt, Metric, Trial

DOUBT_FRAC = 0.10
"""A value in doubt counts this much worse: about what two undisturbed runs of one candidate differ by on a shared
machine (10-15 % seen), so a doubtful candidate must be better by more than chance."""

MIN_ROUNDS = 4
"""Rounds of the finalists from which the search's own measurement counts no more, which made the candidate a finalist
and so flatters it; and from which chances are stated (paired.py): three degrees of freedom."""

NOT_ITS_FAULT = (*NOT_MEASURED, "client_limited")
"""Outcomes that prove nothing about the candidate when another repetition of it ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """One candidate and all its trials, oldest first."""

    candidate: Candidate
    trials: tuple[Trial, ...]

    @property
    def telling(self) -> tuple[Trial, ...]:
        """The trials that count for the candidate; all of them when none does. One that lost a race does not where the
        candidate was measured whole later, nor one of a machine that is not ranked."""
        ranked = tuple(trial for trial in self.trials if not trial.unranked) or self.trials
        ran = tuple(trial for trial in ranked if trial.outcome not in NOT_ITS_FAULT)
        return tuple(trial for trial in ran if trial.race is None) or ran or ranked

    @property
    def is_confirmed(self) -> bool:
        """It was measured in MIN_ROUNDS rounds of the finalists."""
        return len({trial.repetition for trial in self.telling if trial.repetition}) >= MIN_ROUNDS

    @property
    def counted(self) -> tuple[Trial, ...]:
        """The telling trials whose numbers count: fresh launches alone where there are enough of them."""
        return tuple(trial for trial in self.telling if trial.repetition or not self.is_confirmed)

    @property
    def is_feasible(self) -> bool:
        """Every telling repetition ran and broke no constraint."""
        return all(trial.is_feasible for trial in self.telling)

    @property
    def worst(self) -> Trial:
        """The repetition that rules it out: a failed one, else one with a violation, else the newest."""
        failed = [trial for trial in self.telling if trial.outcome != "ok"]
        broken = [trial for trial in self.telling if trial.violations]
        return (failed or broken or list(self.telling))[-1]

    def metric(self, name: str) -> Metric | None:
        """The metric over all repetitions: mean of their values; the interval reaches from the lowest low to the
        highest high (the machine drifts between repetitions, so narrower would promise too much). None as soon as one
        repetition lacks it."""
        found = [metric_of(trial, name) for trial in self.counted]
        metrics = [metric for metric in found if metric is not None]
        if not metrics or len(metrics) < len(found):
            return None
        if len(metrics) == 1:
            return metrics[0]
        lows = [metric.low for metric in metrics if metric.low is not None]
        highs = [metric.high for metric in metrics if metric.high is not None]
        values = [metric.value for metric in metrics]
        return Metric(
            value=sum(values) / len(values),
            unit=metrics[0].unit,
            estimator=f"mean of {len(metrics)} repetitions of: {metrics[0].estimator}",
            method=metrics[0].method,
            n=sum(metric.n for metric in metrics),
            low=min([*lows, *values]) if len(lows) == len(metrics) else None,
            high=max([*highs, *values]) if len(highs) == len(metrics) else None,
            note=metrics[-1].note,
        )

    def costs(self, goals: Goals) -> tuple[float, ...]:
        """One cost per objective, smaller better: pooled over the repetitions, DOUBT_FRAC worse where in doubt."""
        costs = [objective.cost(self.metric(objective.metric)) for objective in goals.objectives]
        worse = DOUBT_FRAC if self.doubts(goals) else 0.0
        return tuple(cost + worse * abs(cost) for cost in costs)

    def rank(self, goals: Goals) -> tuple[int, tuple[float, ...], str]:
        """Sort key, better first: feasible candidates, those that broke a constraint, those that failed; then the
        costs."""
        state = 0 if self.is_feasible else 1 if self.worst.has_numbers else 2
        return state, self.costs(goals), self.candidate.candidate_id

    def evidence(self, goals: Goals) -> Trial:
        """The trial whose first objective is in the middle of the repetitions (the later one of two), of those whose
        own answers were judged if there are any."""
        name = goals.objectives[0].metric
        measured = [trial for trial in self.counted if metric_of(trial, name) is not None] or list(self.telling)
        measured = [trial for trial in measured if trial.is_judged] or measured
        measured.sort(key=lambda trial: _value(trial, name))
        return measured[len(measured) // 2]

    def doubts(self, goals: Goals) -> tuple[str, ...]:
        """Reasons to distrust any repetition that could flatter it: too few samples, failures, drift ... A doubt about
        the p99 counts only where the goals use it and the slowest request seen does not settle it."""
        found = (doubt for trial in self.telling for doubt in trial.doubts if not doubt.only_makes_worse)
        return _sentences(doubt for doubt in found if self._matters(doubt, goals))

    def disturbances(self) -> tuple[str, ...]:
        """Reasons to distrust any repetition that can only have made it look worse; they do not rule it out."""
        return _sentences(doubt for trial in self.telling for doubt in trial.doubts if doubt.only_makes_worse)

    def _matters(self, doubt: Doubt, goals: Goals) -> bool:
        judged = (name for objective in goals.objectives for name in objective.judged)
        if not doubt.about or any(without_level(name) in doubt.about for name in judged):
            return True
        limits = [one for one in goals.limits if without_level(one.metric) in doubt.about and one.high is not None]
        slowest = self.metric("latency_max_ms")
        return any(
            slowest is None or level_in(one.metric) is not None or slowest.value > (one.high or 0.0) for one in limits
        )


def pool(trials: Iterable[Trial]) -> tuple[Pooled, ...]:
    """Trials grouped by candidate, in the order the candidates first ran."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.candidate.candidate_id, []).append(trial)
    return tuple(Pooled(candidate=group[0].candidate, trials=tuple(group)) for group in groups.values())


def _sentences(doubts: Iterable[Doubt]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(doubt.sentence for doubt in doubts))


def _value(trial: Trial, name: str) -> float:
    metric = metric_of(trial, name)
    return metric.value if metric is not None else float("inf")
