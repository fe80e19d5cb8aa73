"""The gate's evidence for one change: confidence bounds at any level, and how more launches would shrink them.

A *worsening* is how much worse the candidate is, in the metric's analysis scale: natural logarithm of the ratio for
positive quantities (latency, throughput, memory), plain difference for shares. Positive is worse, whatever the
metric's better direction is. Bounds are one-sided: `lower(0.01)` is exceeded by the true worsening with 99 %
confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Protocol

from harness.measure.statistics.distributions import t_cdf, t_quantile, wilson_interval

LIKELY = NormalDist().inv_cdf(0.8)
"""An estimate of 'how many more' is made so that they settle it with a probability of 80 %."""


class Evidence(Protocol):
    """Bounds of one worsening. `estimate` is its best value; `how` one sentence on the method."""

    @property
    def estimate(self) -> float: ...
    @property
    def how(self) -> str: ...
    def lower(self, level: float) -> float:
        """Below the true worsening with confidence 1 - level (0 < level <= 0.5)."""
        ...

    def upper(self, level: float) -> float: ...
    def p_above(self, limit: float) -> float:
        """One-sided p value of 'the worsening is at most `limit`': the level at which `lower` reaches it."""
        ...

    def enlarged(self, factor: float) -> Evidence:
        """The evidence from `factor` times as much data with the same averages."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """A difference of means over launches: Student's t with the launch (one start of the server) as the unit.

    `spread` is the standard deviation of one launch's value around its candidate's mean, `df` the degrees of freedom
    it was estimated with (infinite: assumed, not estimated). `is_paired`: `spread` is that of the differences of
    pairs, of which there are `n_candidate`.
    """

    estimate: float
    spread: float
    df: float
    n_baseline: int
    n_candidate: int
    is_paired: bool
    how: str

    @property
    def standard_error(self) -> float:
        """Of the estimate."""
        share = 1 / self.n_candidate + (0.0 if self.is_paired else 1 / self.n_baseline)
        return self.spread * math.sqrt(share)

    def lower(self, level: float) -> float:
        return self.estimate - t_quantile(1 - level, self.df) * self.standard_error

    def upper(self, level: float) -> float:
        return self.estimate + t_quantile(1 - level, self.df) * self.standard_error

    def p_above(self, limit: float) -> float:
        if self.standard_error == 0:
            return 0.0 if self.estimate > limit else 1.0
        return t_cdf((limit - self.estimate) / self.standard_error, self.df)

    def enlarged(self, factor: float) -> Launches:
        more = replace(
            self,
            n_baseline=math.ceil(self.n_baseline * factor),
            n_candidate=math.ceil(self.n_candidate * factor),
        )
        added = more.n_candidate - self.n_candidate + (0 if self.is_paired else more.n_baseline - self.n_baseline)
        df = float(more.n_baseline + more.n_candidate - 2) if math.isinf(self.df) else self.df + added
        return replace(more, df=max(df, 1.0), spread=self.spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """A difference of two shares (errors of requests): Newcombe's hybrid score interval (1998, method 10).

    `bad_*` of `n_*` requests, after division by the design effect of launches. n >= 1 each.
    """

    bad_baseline: float
    n_baseline: float
    bad_candidate: float
    n_candidate: float
    how: str

    @property
    def estimate(self) -> float:
        return self.bad_candidate / self.n_candidate - self.bad_baseline / self.n_baseline

    def lower(self, level: float) -> float:
        (now, low, _), (before, _, high) = self._shares(level)
        return now - before - math.hypot(now - low, high - before)

    def upper(self, level: float) -> float:
        (now, _, high), (before, low, _) = self._shares(level)
        return now - before + math.hypot(high - now, before - low)

    def _shares(self, level: float) -> list[tuple[float, float, float]]:
        """Now and before: the share of bad ones and its bounds."""
        z = NormalDist().inv_cdf(1 - level)
        sides = ((self.bad_candidate, self.n_candidate), (self.bad_baseline, self.n_baseline))
        return [(bad / n, *wilson_interval(bad, n, z)) for bad, n in sides]

    def p_above(self, limit: float) -> float:
        return _p_by_search(self, limit)

    def enlarged(self, factor: float) -> Shares:
        return Shares(
            bad_baseline=self.bad_baseline * factor,
            n_baseline=self.n_baseline * factor,
            bad_candidate=self.bad_candidate * factor,
            n_candidate=self.n_candidate * factor,
            how=self.how,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedShares:
    """A difference of two shares over the same prompts (answers that are right): Agresti & Min (2005), equation 3:
    Wald on the discordant pairs after adding half an observation to each of the four cells.

    `net_worse` = prompts that became wrong minus prompts that became right; `differing` bounds both together from
    above, so the interval is conservative. Nothing differs on any prompt: then the change is exactly 0 on these
    prompts, and `is_identical` reports it.
    """

    net_worse: float
    differing: float
    n: float
    is_identical: bool
    how: str

    @property
    def estimate(self) -> float:
        return self.net_worse / self.n

    def lower(self, level: float) -> float:
        return 0.0 if self.is_identical else self._centre - self._half(level)

    def upper(self, level: float) -> float:
        return 0.0 if self.is_identical else self._centre + self._half(level)

    def p_above(self, limit: float) -> float:
        return _p_by_search(self, limit)

    def enlarged(self, factor: float) -> PairedShares:
        return replace(self, net_worse=self.net_worse * factor, differing=self.differing * factor, n=self.n * factor)

    @property
    def _centre(self) -> float:
        return self.net_worse / (self.n + 2)

    def _half(self, level: float) -> float:
        n = self.n + 2
        variance = (self.differing + 1 - self.net_worse**2 / n) / n**2
        return NormalDist().inv_cdf(1 - level) * math.sqrt(max(variance, 0.0))


def _p_by_search(evidence: Evidence, limit: float) -> float:
    """The level, 1e-12 to 0.5, at which the lower bound reaches `limit`; 0.5 when the estimate itself is below it."""
    if evidence.estimate <= limit:
        return 0.5
    low, high = -12.0, math.log10(0.5)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if evidence.lower(10**middle) > limit else (middle, high)
    return float(10**high)


def factor_to_settle(evidence: Evidence, limit: float, level_pass: float, level_regressed: float) -> float | None:
    """How many times as much data would probably settle it (>= 1); None when 100 times would not: the change is at
    the limit itself."""
    factor = 1.1
    while factor <= 100:
        bigger = evidence.enlarged(factor)
        slack = LIKELY * (bigger.upper(0.15865525393145707) - bigger.estimate)  # one standard error
        if bigger.upper(level_pass) + slack <= limit or bigger.lower(level_regressed) - slack > limit:
            return factor
        factor *= 1.1
    return None
