"""The gate's comparison of two runs: for each candidate and metric the change, its evidence and its limit.

Estimator. Positive quantities are compared by the ratio of geometric means over launches, shares by difference. The
unit is the launch: two starts of one server differ by more than their requests suggest. The spread of launches comes
from the repetitions of this metric, pooled over candidates and both runs (or a candidate's own, from 4 launches on each
side on); launches measured in pairs are compared as pairs; from 3 baseline runs on, the unit is the run ('sitting').
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from harness.gate.evidence import Evidence, Launches, PairedShares, Shares
from harness.gate.launches import Launch, Scale, launches, needed_samples, scale_of
from harness.gate.pairing import Match
from harness.gate.quality_answers import Answers, answers_of
from harness.gate.rules import Budget, Rules
from harness.measure.levels import at_level
from harness.measure.metrics import metric_row
from harness.store.pairs import Pairs
from harness.store.reader import Run

OWN_SPREAD_FROM = 4
"""Launches on each side from which a candidate's own spread is used: 6 degrees of freedom."""
SITTINGS_FROM = 3
"""Baseline runs from which the spread between runs, drift of the machine included, is estimated from them."""
POOLED_FROM_DF = 2.0
"""Below, the spread is assumed: with one degree of freedom a 99.9 % interval is 300 standard errors wide."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The runs, their common candidates, and how they were measured."""

    baselines: tuple[Run, ...]
    candidate: Run
    matches: tuple[Match, ...]
    pairs: Pairs | None


@dataclass(frozen=True, kw_only=True)  # no slots: what is asked for often is kept
class _Values:
    """The launches of one candidate on both sides, on the analysis scale (logs, or as they are)."""

    groups: tuple[tuple[Launch, ...], ...]
    now: tuple[Launch, ...]
    scale: Scale
    pairs: tuple[tuple[str, str], ...]

    def at(self, launch: Launch) -> float:
        return math.log(launch.value) if self.scale == "log" else launch.value

    @cached_property
    def before(self) -> tuple[Launch, ...]:
        return tuple(launch for group in self.groups for launch in group)

    @cached_property
    def differences(self) -> list[float]:
        """Candidate minus baseline of every pair that has both."""
        first = {launch.trial_id: self.at(launch) for launch in self.before}
        second = {launch.trial_id: self.at(launch) for launch in self.now}
        return [second[two] - first[one] for one, two in self.pairs if one in first and two in second]

    @property
    def compared(self) -> tuple[tuple[Launch, ...], tuple[Launch, ...]]:
        """The launches behind the estimate: those in whole pairs where there are any, else all."""
        if not self.differences:
            return self.before, self.now
        ids = [{x.trial_id for x in side} for side in (self.before, self.now)]
        whole = [pair for pair in self.pairs if pair[0] in ids[0] and pair[1] in ids[1]]
        ones, others = {one for one, _ in whole}, {other for _, other in whole}
        return tuple(x for x in self.before if x.trial_id in ones), tuple(x for x in self.now if x.trial_id in others)

    @cached_property
    def units(self) -> tuple[list[float], list[float]]:
        """Launch values; means of whole runs where there are enough baseline runs."""
        if len(self.groups) < SITTINGS_FROM:
            return [self.at(x) for x in self.before], [self.at(x) for x in self.now]
        sittings = [fmean(self.at(x) for x in group) for group in self.groups if group]
        return sittings, [fmean(self.at(x) for x in self.now)] if self.now else []

    @property
    def sampling_variance(self) -> float:
        """Mean squared standard error of a launch; 0 where it is not known."""
        known = [x.sampling**2 for x in (*self.before, *self.now) if x.sampling is not None]
        return fmean(known) if known else 0.0


def compare(sides: Sides, rules: Rules) -> tuple[Comparison, ...]:
    """Every candidate's every budgeted metric, candidates in order; a metric that neither side has is left out."""
    found: list[Comparison] = []
    for name, budget in rules.budgets().items():
        values = {each.candidate_id: _values(sides, each, name) for each in sides.matches}
        pooled = _pooled_spread(list(values.values()))
        for each in sides.matches:
            if not values[each.candidate_id].before and not values[each.candidate_id].now:
                continue
            evidence_of = _evidence_maker(sides, each, name, rules, pooled)
            found.append(_comparison(each, name, budget, values[each.candidate_id], evidence_of))
    order = {each.candidate_id: place for place, each in enumerate(sides.matches)}
    return tuple(sorted(found, key=lambda comparison: order[comparison.candidate_id]))


def _values(sides: Sides, match: Match, name: str) -> _Values:
    groups = tuple(
        launches(run.root, trials, name) for run, trials in zip(sides.baselines, match.baseline, strict=True)
    )
    now = launches(sides.candidate.root, match.candidate, name)
    is_positive = all(launch.value > 0 for launch in (*(x for group in groups for x in group), *now))
    scale = scale_of(name) if is_positive else "linear"
    pairs = sides.pairs.trial_ids if sides.pairs is not None else ()
    return _Values(groups=groups, now=now, scale=scale, pairs=pairs)


def _comparison(
    match: Match, name: str, budget: Budget, values: _Values, evidence_of: Callable[[_Values], Evidence]
) -> Comparison:
    row = metric_row(name)
    assert row is not None
    first, second = values.compared
    before, now = _central(values, first), _central(values, second)
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


def _central(values: _Values, side: Sequence[Launch]) -> float | None:
    if not side:
        return None
    mean = fmean(values.at(launch) for launch in side)
    return math.exp(mean) if values.scale == "log" else mean


def _problem(name: str, values: _Values) -> str:
    levels = sorted({each.level for each in (*values.before, *values.now) if each.level}, key=lambda one: one.value)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """A standard deviation of one unit (or of one pair's difference) and the degrees of freedom behind it."""

    value: float
    df: float


def _pooled_spread(all_values: Sequence[_Values]) -> _Spread:
    """Of one metric, over every candidate: within-candidate variances weighted by their degrees of freedom."""
    squares = df = 0.0
    for values in all_values:
        for side in _sides_of(values):
            if len(side) > 1:
                squares += _squares(side)
                df += len(side) - 1
    return _Spread(value=math.sqrt(squares / df) if df else 0.0, df=df)


def _squares(values: Sequence[float]) -> float:
    """The sum of squared distances from the mean."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _sides_of(values: _Values) -> tuple[list[float], ...]:
    """The lists within which variance is spread: pair differences, or each side's units."""
    return (values.differences,) if values.differences else values.units


def _evidence_maker(
    sides: Sides, match: Match, name: str, rules: Rules, pooled: _Spread
) -> Callable[[_Values], Evidence]:
    base = name.partition(".")[0]
    if base in ANSWER_METRICS:
        return lambda values: _of_answers(sides, match, values)
    if base in COUNTED_METRICS:
        return lambda values: _of_counts(values)
    row = metric_row(name)
    sign = -1 if row is not None and row.better == "maximize" else 1
    return lambda values: _of_launches(values, pooled, rules, sign)


def _of_launches(values: _Values, pooled: _Spread, rules: Rules, sign: int) -> Launches:
    differences = values.differences
    before, now = values.units
    estimate = fmean(differences) if differences else fmean(now) - fmean(before)
    own = _own_spread(values)
    chosen, source = (own, "its own launches") if own is not None else (pooled, "launches of all candidates")
    unit = "pairs" if differences else "runs" if len(values.groups) >= SITTINGS_FROM else "launches"
    if chosen.df < POOLED_FROM_DF:
        return _assumed(values, chosen, rules, sign * estimate)
    floor = _on_scale(rules.spread.floor_frac, values)
    spread = max(chosen.value, floor)
    how = f"spread of {unit} {_percent(spread, values.scale)} from {source} ({chosen.df:.3g} degrees of freedom)"
    return Launches(
        estimate=sign * estimate,
        spread=spread,
        df=chosen.df,
        n_baseline=len(before),
        n_candidate=len(differences) or len(now),
        is_paired=bool(differences),
        how=how,
    )


def _own_spread(values: _Values) -> _Spread | None:
    if values.differences:
        own = values.differences
        return (
            _Spread(value=math.sqrt(_squares(own) / (len(own) - 1)), df=len(own) - 1)
            if len(own) > 2 * OWN_SPREAD_FROM - 2
            else None
        )
    before, now = values.units
    if min(len(before), len(now)) < OWN_SPREAD_FROM:
        return None
    variances = [_squares(side) / (len(side) - 1) / len(side) for side in (before, now)]
    total = sum(variances)
    if total <= 0:
        return _Spread(value=0.0, df=len(before) + len(now) - 2)
    df = total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, (len(before), len(now)), strict=True))
    # Welch & Satterthwaite's degrees of freedom, rounded down.
    return _Spread(value=math.sqrt(total / (1 / len(before) + 1 / len(now))), df=math.floor(df + 1e-9))


def _assumed(values: _Values, seen: _Spread, rules: Rules, estimate: float) -> Launches:
    """Too few repetitions to know the spread: the larger of the assumed and the seen one, plus sampling."""
    before, now = values.units
    if values.differences:  # too few pairs: as many launches on each side, compared as if they were not paired
        before = now = values.differences
    assumed = max(_on_scale(rules.spread.assumed_frac, values), seen.value)
    spread = math.sqrt(assumed**2 + values.sampling_variance)
    return Launches(
        estimate=estimate,
        spread=spread,
        df=math.inf,
        n_baseline=len(before),
        n_candidate=len(now),
        is_paired=False,
        how=f"spread of launches assumed {_percent(assumed, values.scale)}: {len(before)} + {len(now)} launches "
        "are too few to estimate it",
    )


def _on_scale(frac: float, values: _Values) -> float:
    if values.scale == "log":
        return frac
    centre = _central(values, (*values.before, *values.now))
    return frac * abs(centre or 0.0)


def _percent(spread: float, scale: Scale) -> str:
    return f"{100 * spread:.2g} %" if scale == "log" else f"{spread:.3g}"


def _of_counts(values: _Values) -> Shares:
    """Failed requests of all requests; more spread among launches than chance gives shrinks what they are worth."""
    effect = max(_design_effect(values.before), _design_effect(values.now))
    counts = [(sum(x.value * x.n for x in side), sum(x.n for x in side)) for side in (values.before, values.now)]
    (bad_before, n_before), (bad_now, n_now) = counts
    return Shares(
        bad_baseline=bad_before / effect,
        n_baseline=n_before / effect,
        bad_candidate=bad_now / effect,
        n_candidate=n_now / effect,
        how=f"{bad_before:.0f} of {n_before} before, {bad_now:.0f} of {n_now} now"
        + (f", worth {1 / effect:.0%} of that since launches differ" if effect > 1 else ""),
    )


def _design_effect(side: Sequence[Launch]) -> float:
    """Variance of the launches' shares over what independent requests would give; 1 below 3 launches."""
    total = sum(launch.n for launch in side)
    share = sum(launch.value * launch.n for launch in side) / total
    if len(side) < 3 or not 0 < share < 1:
        return 1.0
    squares = sum(launch.n * (launch.value - share) ** 2 for launch in side) / (share * (1 - share))
    return max(1.0, squares / (len(side) - 1))


def _of_answers(sides: Sides, match: Match, values: _Values) -> Evidence:
    """Right answers of all prompts, the same prompts on both sides where the answers are stored."""
    first, last = values.before[0], values.now[0]
    right_before, right_now = first.value * first.n, last.value * last.n
    stored = _stored_answers(sides, match, first, last)
    if stored is None or first.n != last.n:
        return Shares(
            bad_baseline=first.n - right_before,
            n_baseline=first.n,
            bad_candidate=last.n - right_now,
            n_candidate=last.n,
            how=f"{right_before:.0f} of {first.n} before, {right_now:.0f} of {last.n} now; answers are not stored on "
            "both sides, so prompts are not paired",
        )
    differing = len(stored.differing)
    same = "every answer is the same" if differing == 0 else f"{differing} answers differ"
    return PairedShares(
        net_worse=right_before - right_now,
        differing=min(differing, last.n),
        n=last.n,
        is_identical=differing == 0,
        how=f"{right_before:.0f} of {last.n} before, {right_now:.0f} now; {same} (paired by prompt)",
    )


def _stored_answers(sides: Sides, match: Match, first: Launch, last: Launch) -> Answers | None:
    roots: Mapping[str, Path] = {
        trial.trial_id: run.root
        for run, trials in reversed(list(zip(sides.baselines, match.baseline, strict=True)))
        for trial in trials
    }  # the first run wins where several numbered their trials alike
    before = answers_of(roots[first.trial_id], first.trial_id)
    now = answers_of(sides.candidate.root, last.trial_id)
    return Answers(before=before, now=now) if before and now else None
