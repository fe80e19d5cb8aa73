"""Statistical estimators with intervals from raw samples: percentiles, means and ratios.

Percentiles are linear interpolations between order statistics (Hyndman & Fan 1996, type 7), their 95 % intervals two
order statistics found by the binomial law (David & Nagaraja, Order Statistics, 7.1): valid for independent samples of
any distribution, and covering 95 % or more (discrete ranks make it up to 97.5 % near the smallest n). Such an interval
needs enough samples: an upper end for p99 exists from 368 on. Answers that share a batch, a queue or a stall are not
independent; `design_effect` states how many independent ones they are worth, and the interval is that of the smaller n.

Means and rates have circular-block-bootstrap intervals (Politis & Romano 1992), blocks by Politis & White (2004),
widened where the bootstrap's variance falls short of the autocorrelated mean's, and by Student's t for the number of
independent samples: as it is, the bootstrap covers 90 % of runs whose answers come in batches of 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from harness.measure.statistics.dependence import MIN_N, block_length, design_effect, inefficiency
from harness.measure.statistics.distributions import Z_95, binomial_cdf, t_quantile, wilson_interval
from harness.records import Metric

__all__ = [
    "bootstrap_means",
    "design_effect",
    "interval_ranks",
    "mean",
    "percentile",
    "rate",
    "share",
    "smallest_n",
]

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
BOOTSTRAP_ROUNDS = 2000
BOOTSTRAP_BLOCKS = 20_000
BOOTSTRAP_CELLS = 4_000_000
"""Blocks drawn at once: 64 MB, whatever the number of samples."""
KEPT_BLOCKS = 500
"""Draws of at most so many blocks are kept for the next metric of as many samples, eight of them: 64 MB at most. They
take two thirds of an interval's time, and depend on nothing but the numbers of samples and blocks, and the seed."""
MIN_BOOTSTRAP_N = 10
"""Below this a resample repeats a handful of values; no interval is given."""
NOTED_EFFECT = 1.5
"""Dependence that is worth a note; independent samples seldom show more than 1.2 by chance."""
MIN_WORTH = 50
"""A mean of samples worth fewer independent ones has an interval that covers less than 93 % (simulated: 90 % at 25)."""


def smallest_n(q: float) -> int:
    """Smallest number of samples at which both ends of the 95 % interval of quantile `q` exist: p50 6, p90 36, p99 368.

    The upper end exists when q^n <= 0.025, the lower one when (1-q)^n <= 0.025.
    """
    return max(math.ceil(math.log(_TAIL) / math.log(q)), math.ceil(math.log(_TAIL) / math.log(1 - q)))


@lru_cache(maxsize=1024)
def interval_ranks(n: int, q: float) -> tuple[int | None, int | None]:
    """Ranks (1-based) of the order statistics that bound quantile `q` with 95 % confidence, equal tails; None: no end.

    Low: the largest l with P(Bin(n,q) < l) <= 0.025. High: the smallest u with P(Bin(n,q) >= u) <= 0.025.
    """
    first, cumulative = binomial_cdf(n, q)
    below = int(np.searchsorted(cumulative, _TAIL, side="right"))  # count of k with P(X <= k) <= tail
    low = first + below if below else None
    above = int(np.searchsorted(cumulative, 1 - _TAIL, side="left"))  # smallest k with P(X <= k) >= 1 - tail
    high = first + above + 1
    return low, (high if high <= n else None)


def percentile(
    samples: Sequence[float], q: float, *, unit: str = "ms", scale: float = 1e-6, block: int = 1, note: str = ""
) -> Metric:
    """Quantile `q` of samples in time order, times `scale` (default: ns to ms), with its distribution-free interval.

    `block` is a number of neighbouring samples known to share a fate (one round of all users); dependence beyond it is
    found too. An end that does not exist is None and the note states how many samples it takes, before `note`. Needs
    n >= 1; smallest n for both ends: `smallest_n`.
    """
    ordered_in_time = np.asarray(samples, dtype=np.float64)
    n = len(ordered_in_time)
    if n == 0:
        raise ValueError("a percentile needs at least one sample")
    effect = design_effect(ordered_in_time, q, block)
    ordered = np.sort(ordered_in_time)
    low, high = _end_values(ordered, q, effect)
    notes = [note] if note else []
    if high is None or low is None:
        which = "upper" if high is None else "lower"
        more = math.ceil(smallest_n(q) * effect)
        notes.append(f"no {which} bound: {n} samples, {more} needed for p{100 * q:g}")
    if effect > NOTED_EFFECT:
        notes.append(f"neighbouring samples depend on each other; worth {n / effect:.0f} independent ones")
    return Metric(
        value=float(np.quantile(ordered, q)) * scale,
        unit=unit,
        estimator=f"p{100 * q:g} (type 7), 95 % order-statistic interval",
        method="order_statistic",
        n=n,
        low=None if low is None else low * scale,
        high=None if high is None else high * scale,
        note="; ".join(notes),
    )


def _end_values(ordered: Floats, q: float, effect: float) -> tuple[float | None, float | None]:
    """The order statistics at the interval's ranks; with dependence, at the levels that these ranks of the smaller n
    have on average, rank / (n + 1)."""
    n = len(ordered)
    worth = max(1, int(n / effect))
    low, high = interval_ranks(worth, q)
    if worth != n:
        low = None if low is None else max(1, math.floor(low * (n + 1) / (worth + 1)))
        high = None if high is None else min(n, math.ceil(high * (n + 1) / (worth + 1)))
    return (
        None if low is None else float(ordered[low - 1]),
        None if high is None else float(ordered[high - 1]),
    )


def share(is_hit: Sequence[bool], *, estimator: str) -> Metric:
    """The share of hits among requests in time order, with Wilson's interval (1927, equation 4) for the number of
    independent requests that they are worth. n >= 1."""
    hits = np.asarray(is_hit, dtype=np.float64)
    effect = inefficiency(hits)
    worth = len(hits) / (effect if effect > NOTED_EFFECT else 1.0)
    low, high = wilson_interval(float(hits.mean()) * worth, worth)
    note = f"neighbouring requests depend on each other; worth {worth:.0f} independent ones"
    return Metric(
        value=float(hits.mean()),
        unit="frac",
        estimator=f"{estimator}, Wilson interval",
        method="wilson",
        n=len(hits),
        low=low,
        high=high,
        note=note if worth < len(hits) else "",
    )


def bootstrap_means(samples: Floats, block: int, seed: int) -> Floats:
    """Means of circular-block-bootstrap resamples (Politis & Romano 1992), BOOTSTRAP_ROUNDS of them.

    `samples` [n], or [k, n] for k series resampled together: the means are then [k, BOOTSTRAP_ROUNDS]."""
    series, n = np.atleast_2d(samples), samples.shape[-1]
    blocks = math.ceil(n / block)
    block_sums = [_block_sums(each, block) for each in series]
    totals: list[list[Floats]] = [[] for _ in series]
    for drawn in (_kept_draw(n, blocks, seed),) if blocks <= KEPT_BLOCKS else _draws(n, blocks, seed):
        for total, sums in zip(totals, block_sums, strict=True):
            total.append(sums.take(drawn).sum(axis=1))
    means: Floats = np.array([np.concatenate(total) for total in totals]) / (blocks * block)
    return means.reshape(*samples.shape[:-1], BOOTSTRAP_ROUNDS)


def _draws(n: int, blocks: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """BOOTSTRAP_ROUNDS rows of `blocks` first samples below n, in parts of at most BOOTSTRAP_CELLS (or one row)."""
    rng = np.random.default_rng(seed)
    at_once = max(1, BOOTSTRAP_CELLS // blocks)  # the draws are the same however they are cut
    for done in range(0, BOOTSTRAP_ROUNDS, at_once):
        yield rng.integers(0, n, size=(min(at_once, BOOTSTRAP_ROUNDS - done), blocks))


@lru_cache(maxsize=8)
def _kept_draw(n: int, blocks: int, seed: int) -> npt.NDArray[np.int64]:
    """All rows at once."""
    return np.concatenate(list(_draws(n, blocks, seed)))


def _block_sums(samples: Floats, block: int) -> Floats:
    """[n] sums of `block` neighbours, the first ones following the last."""
    sums = np.cumsum(np.concatenate([[0.0], samples, samples[: block - 1]]))
    return np.asarray(sums[block:] - sums[:-block])


def _blocks_of(values: Floats, block: int) -> int:
    """The block length that dependence asks for, longer where there would be more than BOOTSTRAP_BLOCKS of them: more
    do not improve the interval's ends, and a million samples would take a minute."""
    return max(block_length(values, block), math.ceil(len(values) / BOOTSTRAP_BLOCKS))


def mean(samples: Sequence[float], *, unit: str = "ms", scale: float = 1e-6, block: int = 1, seed: int = 0) -> Metric:
    """Arithmetic mean of samples in time order, times `scale`, with a block-bootstrap percentile interval (n >= 10)."""
    values = np.asarray(samples, dtype=np.float64) * scale
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one sample")
    value, low, high, note = float(values.mean()), None, None, f"no interval below {MIN_BOOTSTRAP_N} samples"
    length = _blocks_of(values, block)
    if n >= MIN_BOOTSTRAP_N:
        resampled = bootstrap_means(values, length, seed)
        widening, note = _widening(values, resampled, block)
        low, high = _bounds(value, resampled, widening)
    return Metric(
        value=value,
        unit=unit,
        estimator=f"mean, 95 % circular block bootstrap, blocks of {length}",
        method="block_bootstrap",
        n=n,
        low=low,
        high=high,
        note=note,
    )


def rate(done_ns: Sequence[int], amounts: Sequence[float], window: tuple[int, int], *, unit: str, block: int) -> Metric:
    """Sum of `amounts` that were done inside `window` (begin, end; ns), per second.

    The interval resamples blocks of consecutive completions with the time gaps before them (seeded): answers that leave
    in one batch stay together. Block length and scale are those of amount - rate * gap, the ratio's linear part. Needs
    10 completions; below, no interval.
    """
    begin_ns, end_ns = window
    order = np.argsort(np.asarray(done_ns, dtype=np.int64), kind="stable")
    times = np.asarray(done_ns, dtype=np.int64)[order]
    weights = np.asarray(amounts, dtype=np.float64)[order]
    is_inside = (times >= begin_ns) & (times <= end_ns)
    times, weights = times[is_inside], weights[is_inside]
    n, window_s = len(times), (end_ns - begin_ns) / 1e9
    value = float(weights.sum()) / window_s if window_s > 0 else 0.0
    low, high, note, length = None, None, f"no interval below {MIN_BOOTSTRAP_N} completions", 1
    if n >= MIN_BOOTSTRAP_N and window_s > 0:
        # The time after the last completion is a gap that ends with nothing; without it every resample is too fast.
        gaps = np.diff(np.concatenate([[begin_ns], times, [end_ns]])).astype(np.float64) / 1e9
        weights = np.append(weights, 0.0)
        linear = weights - value * gaps
        length = _blocks_of(linear, block)
        amounts_of, gaps_of = bootstrap_means(np.array([weights, gaps]), length, 0)
        rates = amounts_of / np.maximum(gaps_of, 1e-12)
        widening, note = _widening(linear, amounts_of - value * gaps_of, block)
        low, high = _bounds(value, rates, widening)
    return Metric(
        value=value,
        unit=unit,
        estimator=f"completions over time while every user was busy, 95 % block bootstrap, blocks of {length}",
        method="block_bootstrap",
        n=n,
        low=low,
        high=high,
        note=note,
    )


def _widening(values: Floats, resampled: Floats, block: int) -> tuple[float, str]:
    """(how much wider than the bootstrap's the interval of the mean must be, a note where even that is not enough).

    The standard error of an autocorrelated mean is sd * sqrt(inefficiency / n), taken over means of `block` neighbours
    where there are enough: inside a round answers may balance each other. Student's t has n / inefficiency - 1 degrees
    of freedom. Never narrower than the bootstrap.
    """
    rounds = len(values) // block if block > 1 else 0
    if rounds >= MIN_N:
        values = values[: rounds * block].reshape(rounds, block).mean(axis=1)
    effect = inefficiency(values)
    worth = len(values) / effect
    error, shown = math.sqrt(float(values.var(ddof=1)) / worth), float(resampled.std())
    short = max(1.0, error / shown) if shown > 0 else 1.0
    note = f"worth {worth:.0f} independent samples; the interval may be too narrow below {MIN_WORTH}"
    is_short = worth < MIN_WORTH and effect > NOTED_EFFECT
    return short * t_quantile(1 - _TAIL, max(2.0, worth - 1)) / Z_95, note if is_short else ""


def _bounds(value: float, resampled: Floats, widening: float) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the resamples, their distances from `value` widened; they hold `value`, and do
    not reach below 0: times and rates never do."""
    low, high = (float(end) for end in np.quantile(resampled, [_TAIL, 1 - _TAIL]))
    low, high = value - max(0.0, value - low) * widening, value + max(0.0, high - value) * widening
    return (max(0.0, low) if value >= 0 else low), high
