"""The spread of launches, from their repetitions or assumed, and the gate's evidence for a change that it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.gate.evidence import Launches
from harness.gate.launches import Scale
from harness.gate.rules import Rules
from harness.gate.sides import SITTINGS_FROM, Values, central

OWN_SPREAD_FROM = 4
"""Launches on each side from which a candidate's own spread is used: 6 degrees of freedom."""
POOLED_FROM_DF = 2.0
"""Below, the spread is assumed: with one degree of freedom a 99.9 % interval is 300 standard errors wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A standard deviation of one unit (or of one pair's difference) and the degrees of freedom behind it."""

    value: float
    df: float


def pooled_spread(all_values: Sequence[Values]) -> Spread:
    """Of one metric, over every candidate: within-candidate variances weighted by their degrees of freedom."""
    squares = df = 0.0
    for values in all_values:
        for side in _sides_of(values):
            if len(side) > 1:
                squares += _squares(side)
                df += len(side) - 1
    return Spread(value=math.sqrt(squares / df) if df else 0.0, df=df)


def _squares(values: Sequence[float]) -> float:
    """The sum of squared distances from the mean."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _sides_of(values: Values) -> tuple[list[float], ...]:
    """The lists within which variance is spread: pair differences, or each side's units."""
    return (values.differences,) if values.differences else values.units


def of_launches(values: Values, pooled: Spread, rules: Rules, sign: int) -> Launches:
    """The evidence in a metric's launches; `pooled` is the spread where a candidate's own are too few."""
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


def _own_spread(values: Values) -> Spread | None:
    if values.differences:
        own = values.differences
        return (
            Spread(value=math.sqrt(_squares(own) / (len(own) - 1)), df=len(own) - 1)
            if len(own) > 2 * OWN_SPREAD_FROM - 2
            else None
        )
    before, now = values.units
    if min(len(before), len(now)) < OWN_SPREAD_FROM:
        return None
    variances = [_squares(side) / (len(side) - 1) / len(side) for side in (before, now)]
    total = sum(variances)
    if total <= 0:
        return Spread(value=0.0, df=len(before) + len(now) - 2)
    df = total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, (len(before), len(now)), strict=True))
    # Welch & Satterthwaite's degrees of freedom, rounded down.
    return Spread(value=math.sqrt(total / (1 / len(before) + 1 / len(now))), df=math.floor(df + 1e-9))


def _assumed(values: Values, seen: Spread, rules: Rules, estimate: float) -> Launches:
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


def _on_scale(frac: float, values: Values) -> float:
    if values.scale == "log":
        return frac
    centre = central(values, (*values.before, *values.now))
    return frac * abs(centre or 0.0)


def _percent(spread: float, scale: Scale) -> str:
    return f"{100 * spread:.2g} %" if scale == "log" else f"{spread:.3g}"
