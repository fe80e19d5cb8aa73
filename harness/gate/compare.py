"""The gate's comparison of two runs: for each candidate and metric the change, its evidence and its limit.

Estimator. Positive quantities are compared by the ratio of geometric means over launches, shares by difference. The
unit is the launch: two starts of one server differ by more than their requests suggest. The spread of launches comes
from the repetitions of this metric, pooled over candidates and both runs (or a candidate's own, from 4 launches on each
side on); launches measured in pairs are compared as pairs; from 3 baseline runs on, the unit is the run ('sitting').
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.gate.evidence import Evidence
from harness.gate.launches import Launch, Scale, needed_samples
from harness.gate.pairing import Match
from harness.gate.rules import Budget, Rules
from harness.gate.shares import of_answers, of_counts
from harness.gate.sides import Sides, Values, central, values_of
from harness.gate.spread import Spread, of_launches, pooled_spread
from harness.measure.levels import at_level
from harness.measure.metrics import metric_row

ANSWER_METRICS = ("exact_match_frac", "reference_match_frac")
COUNTED_METRICS = ("error_frac", "nonfinite_frac")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of one candidate on both sides. `baseline` and `candidate` are geometric (log) or plain means; None
    where the metric is absent, or a percentile of so few requests that it would be read as more than it is.

    `limit` is the allowed worsening on the analysis scale; `evidence` None with a `problem` that explains why.
    """

    candidate_id: str
    label: str
    metric: str
    unit: str
    scale: Scale
    is_larger_better: bool
    baseline: float | None
    candidate: float | None
    launches_baseline: int
    launches_candidate: int
    requests: int
    limit: float
    budget: str
    evidence: Evidence | None
    problem: str = ""

    @property
    def sign(self) -> int:
        """+1 where growing is worse."""
        return -1 if self.is_larger_better else 1


def compare(sides: Sides, rules: Rules) -> tuple[Comparison, ...]:
    """Every candidate's every budgeted metric, candidates in order; a metric that neither side has is left out."""
    found: list[Comparison] = []
    for name, budget in rules.budgets().items():
        values = {each.candidate_id: values_of(sides, each, name) for each in sides.matches}
        pooled = pooled_spread(list(values.values()))
        for each in sides.matches:
            if not values[each.candidate_id].before and not values[each.candidate_id].now:
                continue
            evidence_of = _evidence_maker(sides, each, name, rules, pooled)
            found.append(_comparison(each, name, budget, values[each.candidate_id], evidence_of))
    order = {each.candidate_id: place for place, each in enumerate(sides.matches)}
    return tuple(sorted(found, key=lambda comparison: order[comparison.candidate_id]))


def _comparison(
    match: Match, name: str, budget: Budget, values: Values, evidence_of: Callable[[Values], Evidence]
) -> Comparison:
    row = metric_row(name)
    assert row is not None
    first, second = values.compared
    before, now = central(values, first), central(values, second)
    problem = _problem(name, values)
    return Comparison(
        candidate_id=match.candidate_id,
        label=match.label,
        metric=name,
        unit=row.unit,
        scale=values.scale,
        is_larger_better=row.better == "maximize",
        baseline=before if _is_enough(name, values.before) else None,
        candidate=now if _is_enough(name, values.now) else None,
        launches_baseline=len(first),
        launches_candidate=len(second),
        requests=sum(launch.n for launch in second),
        limit=_limit(budget, before, values.scale, is_larger_better=row.better == "maximize"),
        budget=budget_text(budget, row.unit, is_larger_better=row.better == "maximize"),
        evidence=None if problem else evidence_of(values),
        problem=problem,
    )


def _problem(name: str, values: Values) -> str:
    levels = sorted(
        {each.level for each in (*values.before, *values.now) if each.level}, key=lambda one: (one.value, one.name)
    )
    if len(levels) > 1 and name != "load_level":
        return f"measured at {' and at '.join(one.text for one in levels)}: name the level, {at_level(name, levels[0])}"
    for side, found in (("baseline", values.before), ("candidate", values.now)):
        if not found:
            return f"the {side} has no {name}"
        n, needed = sum(launch.n for launch in found), needed_samples(name)
        if not _is_enough(name, found):
            return f"{n} requests in the {side}, {name} needs {needed}: {needed - n} more"
    return ""


def _is_enough(name: str, found: Sequence[Launch]) -> bool:
    return sum(launch.n for launch in found) >= needed_samples(name)


def _limit(budget: Budget, baseline: float | None, scale: Scale, *, is_larger_better: bool) -> float:
    """The allowed worsening on the analysis scale: the larger of the relative and the absolute budget."""
    base = abs(baseline) if baseline else 0.0
    if scale == "linear":
        return max(budget.absolute or 0.0, (budget.relative or 0.0) * base)
    frac = max(budget.relative or 0.0, (budget.absolute or 0.0) / base if base else 0.0)
    if is_larger_better:
        return -math.log1p(-min(frac, 1 - 1e-9))
    return math.log1p(frac)


def budget_text(budget: Budget, unit: str, *, is_larger_better: bool) -> str:
    """'+2 % or +0.1 ms': what may happen at most."""
    sign = "-" if is_larger_better else "+"
    parts = []
    if budget.relative is not None:
        parts.append(f"{sign}{100 * budget.relative:g} %")
    if budget.absolute is not None:
        amount = f"{100 * budget.absolute:g} points" if unit == "frac" else f"{budget.absolute:g} {unit}"
        parts.append(f"{sign}{amount}")
    return " or ".join(parts)


def _evidence_maker(
    sides: Sides, match: Match, name: str, rules: Rules, pooled: Spread
) -> Callable[[Values], Evidence]:
    base = name.partition(".")[0]
    if base in ANSWER_METRICS:
        return lambda values: of_answers(sides, match, values)
    if base in COUNTED_METRICS:
        return lambda values: of_counts(values)
    row = metric_row(name)
    sign = -1 if row is not None and row.better == "maximize" else 1
    return lambda values: of_launches(values, pooled, rules, sign)
