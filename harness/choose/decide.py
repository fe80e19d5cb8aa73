"""The decision of a run: the best candidate that meets the constraints, from stored trials alone.

One objective: best value; candidates that cannot be distinguished from it (`_near`: intervals overlap, nobody surely
better) are a tie, and of a tie the cheapest wins (`cheapest`) of those measured at most TIE_FRAC worse. Several
objectives: of the Pareto front, the knee - the point nearest to the ideal corner after every objective is scaled to
0..1 over the front, a value whose interval meets the best one's counting as the best. Candidates that cannot be
distinguished from the knee in any objective are a tie, and the cheapest wins. Where finalists were measured again in
MIN_ROUNDS rounds or more, one of them is chosen by these rounds alone, and the chance that another is better decides
whether two can be distinguished, not their intervals (paired.py). Fewer repetitions are pooled with the search's own
measurement (repetitions.py).

Numbers in doubt (a window of under 2 s, drift, failures ...) do not rule a candidate out - the fastest engine has the
shortest window - but count DOUBT_FRAC worse than they are, lose every tie against numbers without doubt, and the margin
reports it. A disturbance that can only have slowed a candidate (other processes, the load generator) costs nothing and
is reported.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import le
from textwrap import shorten

from harness.choose.goals import Goals, dominates
from harness.choose.paired import CANNOT_TELL, chance_better
from harness.choose.repetitions import Pooled, pool
from harness.errors import MeasurementInvalid
from harness.records import Metric, Trial
from harness.wording import label, quantity

MEMORY_FRAC = 0.10
"""Peak memory is one sample of a varying thing; a smaller difference does not make a candidate cheaper."""

TIE_FRAC = 0.10
"""A candidate of a tie that was measured worse by more is not taken for being cheaper: few requests on a busy machine
have intervals so wide that ten times the latency may still be a tie. As DOUBT_FRAC, what repetitions differ by."""

REASON_LENGTH = 400
"""Characters of a failure in a sentence: what made it fail stands first, and the end of a log after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen candidate and how it stands to the others. `tied` holds the others of the tie, `too_far` those of
    them that were measured more than TIE_FRAC worse than its best, `front` the Pareto front (one objective: the chosen
    one alone)."""

    goals: Goals
    chosen: Pooled
    runner_up: Pooled | None
    tied: tuple[Pooled, ...]
    too_far: tuple[Pooled, ...]
    front: tuple[Pooled, ...]
    everyone: tuple[Pooled, ...]

    def chance_better(self, one: Pooled) -> float | None:
        """The chance that `one` is truly better than the chosen one; None where too few launches are paired."""
        return chance_better(one, self.chosen, self.goals)


def decide(trials: Sequence[Trial], goals: Goals) -> Choice:
    """The choice among `trials`; pure. Raises MeasurementInvalid when none is feasible."""
    everyone = pool(trials)
    feasible = [one for one in everyone if one.is_feasible and _is_measured(one, goals)]
    if not feasible:
        raise MeasurementInvalid(_nothing_feasible(everyone, goals))
    feasible = [one for one in feasible if one.is_confirmed] or feasible
    best, ranked, front = _one(feasible, goals) if len(goals.objectives) == 1 else _knee(feasible, goals)
    near = _near(best, ranked, goals)
    close = _close(near, best, goals)
    chosen = cheapest(close, goals)
    runner_up = next((one for one in ranked if one is not chosen), None)
    return Choice(
        goals=goals,
        chosen=chosen,
        runner_up=runner_up,
        tied=tuple(one for one in near if one is not chosen),
        too_far=tuple(one for one in near if one not in close),
        front=front or (chosen,),
        everyone=everyone,
    )


def cheapest(tied: Sequence[Pooled], goals: Goals) -> Pooled:
    """Of a tie: free of doubt if any is, then fewest workers, lowest tensor parallel degree, least memory (a
    difference below MEMORY_FRAC is none), then the better first objective."""
    left = [one for one in tied if not one.doubts(goals)] or list(tied)
    fewest = min(_places(one) for one in left)
    left = [one for one in left if _places(one) == fewest]
    least = min(_memory(one) for one in left)
    left = [one for one in left if _memory(one) <= least * (1 + MEMORY_FRAC)] or left
    return min(left, key=lambda one: one.rank(goals))


def _places(one: Pooled) -> tuple[int, int]:
    return one.candidate.workers, one.candidate.tensor_parallel_degree


def _memory(one: Pooled) -> float:
    metric = one.metric("peak_memory_mib")
    return metric.value if metric is not None else math.inf


def overlap(first: Metric, second: Metric) -> bool:
    """Whether the 95 % intervals meet; a metric without an interval is a point."""
    low_1, high_1 = _ends(first)
    low_2, high_2 = _ends(second)
    return low_1 <= high_2 and low_2 <= high_1


Ranked = tuple[Pooled, list[Pooled], tuple[Pooled, ...]]
"""The best one, all by rank, and the Pareto front (empty for one objective)."""


def _one(field: Sequence[Pooled], goals: Goals) -> Ranked:
    ranked = sorted(field, key=lambda one: one.rank(goals))
    return ranked[0], ranked, ()


def _near(best: Pooled, field: Sequence[Pooled], goals: Goals) -> list[Pooled]:
    """`best` and the candidates that cannot be distinguished from it: their intervals meet its own in every objective,
    and nobody in the field is surely better than they are (a wide interval of the best must not let a worse one in)."""
    metrics = [objective.metric for objective in goals.objectives]
    costs = [one.costs(goals) for one in field]

    def is_near(one: Pooled, mine: tuple[float, ...]) -> bool:
        chance = chance_better(one, best, goals)
        if chance is not None:
            return chance >= CANNOT_TELL
        return all(_meets(one, best, name) for name in metrics) and not is_beaten(one, mine)

    def is_beaten(one: Pooled, mine: tuple[float, ...]) -> bool:
        """Whether one is at least as good in every objective and in one of them better by more than the intervals."""
        return any(
            all(map(le, others, mine))
            and any(
                other < own and not _meets(one, by, name)
                for other, own, name in zip(others, mine, metrics, strict=True)
            )
            for by, others in zip(field, costs, strict=True)
        )

    return [one for one, mine in zip(field, costs, strict=True) if one is best or is_near(one, mine)]


def _close(near: Sequence[Pooled], best: Pooled, goals: Goals) -> list[Pooled]:
    """Those of a tie whose measured values are at most TIE_FRAC worse than the best one's in every objective."""
    limits = [cost + TIE_FRAC * abs(cost) for cost in best.costs(goals)]
    return [one for one in near if all(map(le, one.costs(goals), limits))]


def _meets(one: Pooled, other: Pooled, name: str) -> bool:
    mine, its = one.metric(name), other.metric(name)
    return mine is not None and its is not None and overlap(mine, its)


def _knee(field: Sequence[Pooled], goals: Goals) -> Ranked:
    costs = {id(one): one.costs(goals) for one in field}
    front = [one for one in field if not any(dominates(costs[id(other)], costs[id(one)]) for other in field)]
    distance = {id(one): round(_distance(one, front, goals), 9) for one in front}
    ranked = sorted(front, key=lambda one: (distance[id(one)], one.candidate.candidate_id))
    knee = cheapest([one for one in ranked if distance[id(one)] == distance[id(ranked[0])]], goals)
    rest = sorted((one for one in field if one not in front), key=lambda one: one.rank(goals))
    return knee, [*ranked, *rest], tuple(ranked)


def _distance(one: Pooled, front: Sequence[Pooled], goals: Goals) -> float:
    total = 0.0
    mine = one.costs(goals)
    for index, costs in enumerate(zip(*(other.costs(goals) for other in front), strict=True)):
        best = front[costs.index(min(costs))]
        span = max(costs) - min(costs)
        if span and not _meets(one, best, goals.objectives[index].metric):
            total += ((mine[index] - min(costs)) / span) ** 2
    return math.sqrt(total)


def _is_measured(one: Pooled, goals: Goals) -> bool:
    return all(cost < math.inf for cost in one.costs(goals))


def _ends(metric: Metric) -> tuple[float, float]:
    low = metric.low if metric.low is not None else metric.value
    high = metric.high if metric.high is not None else metric.value
    return low, high


def _nothing_feasible(everyone: Sequence[Pooled], goals: Goals) -> str:
    if not everyone:
        return "the run holds no trial: nothing to recommend; run `dyno tune` on its scenario again"
    ran = [one for one in everyone if all(t.has_numbers and t.race is None for t in one.telling)]
    if not ran:
        outcomes = Counter(one.worst.outcome for one in everyone)
        counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        first = everyone[0].worst
        return (
            f"none of {len(everyone)} candidates finished ({counted}); first: {label(first.candidate)}: "
            f"{shorten(first.reason, REASON_LENGTH, placeholder=' ...')}; see its log in the run folder"
        )
    broken = [one for one in ran if one.worst.violations]
    if not broken and (aside := next((one.worst.unranked for one in ran if one.worst.unranked), "")):
        return f"{len(ran)} candidates ran, but none on a machine whose numbers count: {aside}"
    if not broken:
        names = ", ".join(objective.metric for objective in goals.objectives)
        return f"{len(ran)} candidates ran, but none has a value for every objective ({names})"
    if all(_is_silent(one.worst) for one in ran):
        trial = ran[0].worst
        cause = next((f": {doubt.sentence}" for doubt in trial.doubts if doubt.kind == "failed_requests"), "")
        return (
            f"none of {len(everyone)} candidates answered a request; first: {label(trial.candidate)} "
            f"(trial {trial.trial_id}){cause}; see its log in the run folder"
        )
    nearest = min(broken, key=lambda one: _badness(one, goals))
    trial = nearest.worst
    metric = nearest.metric(goals.objectives[0].metric)
    at = f" at {goals.objectives[0].metric} {quantity(metric)}" if metric is not None else ""
    advice = "relax that constraint or widen scenario.space"
    if metric is None:
        advice = "raise workload.requests or max_duration_s, or take another objective"
    return (
        f"none of {len(everyone)} candidates meets every constraint; nearest: {label(trial.candidate)} "
        f"(trial {trial.trial_id}){at}, which broke {'; '.join(trial.violations)}; {advice}"
    )


def _is_silent(trial: Trial) -> bool:
    errors = trial.summary.metrics.get("error_frac") if trial.summary is not None else None
    return errors is not None and errors.value == 1.0


def _badness(one: Pooled, goals: Goals) -> tuple[int, float]:
    checks = goals.checks(one.worst)
    return len(one.worst.violations), max((check.excess_frac for check in checks), default=0.0)
