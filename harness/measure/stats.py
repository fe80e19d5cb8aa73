"""Estimators with intervals, from raw samples. Nothing here assumes a distribution; randomness is seeded.

Percentiles are linear interpolations between order statistics (Hyndman & Fan 1996, type 7), their 95 % intervals two
order statistics found by the binomial law (David & Nagaraja, Order Statistics, 7.1): valid for independent samples of
any distribution. Such an interval needs enough samples: an upper end for p99 exists from 368 on. Answers that share a
batch are not independent; then `design_effect` says how many independent samples they are worth, and the
interval is that of the smaller number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.records import Metric

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
BOOTSTRAP_ROUNDS = 2000
Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""
MIN_BOOTSTRAP_N = 10
"""Below this a resample repeats a handful of values; no interval is given."""
PERMUTATIONS = 200
PERMUTED_MAX_N = 20_000
MAX_DESIGN_EFFECT = 20.0
"""More dependence than this means the window is too short to say anything; the note then carries the doubt."""


def smallest_n(q: float) -> int:
    """Smallest number of samples at which both ends of the 95 % interval of quantile `q` exist: p50 6, p90 36, p99 368.

    The upper end exists when q^n <= 0.025, the lower one when (1-q)^n <= 0.025.
    """
    return max(math.ceil(math.log(_TAIL) / math.log(q)), math.ceil(math.log(_TAIL) / math.log(1 - q)))


def interval_ranks(n: int, q: float) -> tuple[int | None, int | None]:
    """Ranks (1-based) of the order statistics that bound quantile `q` with 95 % confidence, equal tails; None: no end.

    Low: the largest l with P(Bin(n,q) < l) <= 0.025. High: the smallest u with P(Bin(n,q) >= u) <= 0.025.
    """
    first, cumulative = _binomial_cdf(n, q)
    below = int(np.searchsorted(cumulative, _TAIL, side="right"))  # count of k with P(X <= k) <= tail
    low = first + below if below else None
    above = int(np.searchsorted(cumulative, 1 - _TAIL, side="left"))  # smallest k with P(X <= k) >= 1 - tail
    high = first + above + 1
    return low, (high if high <= n else None)


def _binomial_cdf(n: int, q: float) -> tuple[int, Floats]:
    """(k0, P(X <= k) for k = k0, k0+1, ...) of Bin(n, q), over +-10 standard deviations around the mean."""
    spread = 10 * math.sqrt(n * q * (1 - q)) + 20
    first, last = max(0, int(n * q - spread)), min(n, int(n * q + spread))
    log_n = math.lgamma(n + 1)
    logs = [
        log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(q) + (n - k) * math.log1p(-q)
        for k in range(first, last + 1)
    ]
    return first, np.cumsum(np.exp(np.array(logs)))


def design_effect(samples: Floats, q: float, block: int) -> float:
    """How many dependent samples, in time order, are worth one independent one for quantile `q`; at least 1.

    Variance of block means of the indicator (sample <= quantile) over what independence would give, blocks of `block`
    samples (batch means, Law 2015, 9.5.3). It counts only when 99 % of random reorderings of the same samples show
    less (a permutation test, seeded). 1.0 when there are fewer than 10 blocks: too few to tell.
    """
    blocks = len(samples) // block if block > 0 else 0
    if block < 2 or blocks < 10:
        return 1.0
    is_below = (samples <= np.quantile(samples, q)).astype(np.float64)[: blocks * block]
    independent = float(is_below.var()) / block
    if independent <= 0:
        return 1.0
    effect = _block_variance(is_below, block) / independent
    if effect <= 1 or effect <= _chance_effect(is_below, block, blocks) / independent:
        return 1.0
    return min(effect, MAX_DESIGN_EFFECT)


def _block_variance(values: Floats, block: int) -> float:
    return float(values.reshape(-1, block).mean(axis=1).var(ddof=1))


def _chance_effect(values: Floats, block: int, blocks: int) -> float:
    """The block variance that 1 % of reorderings exceed; for long series the chi-square limit, which they approach."""
    if len(values) > PERMUTED_MAX_N:
        return float(values.var()) / block * (1 + 2.326 * math.sqrt(2 / (blocks - 1)))
    shuffled = np.random.default_rng(0).permuted(np.tile(values, (PERMUTATIONS, 1)), axis=1)
    variances = shuffled.reshape(PERMUTATIONS, blocks, block).mean(axis=2).var(axis=1, ddof=1)
    return float(np.quantile(variances, 0.99))


def percentile(samples: Sequence[float], q: float, *, unit: str = "ms", scale: float = 1e-6, block: int = 1) -> Metric:
    """Quantile `q` of samples in time order, times `scale` (default: ns to ms), with its distribution-free interval.

    `block` is the number of neighbouring samples that may share a fate (one batch, or one round of all users); 1 means
    independent. An end that does not exist is None and the note says how many samples it takes. Needs n >= 1.
    """
    ordered_in_time = np.asarray(samples, dtype=np.float64)
    n = len(ordered_in_time)
    if n == 0:
        raise ValueError("a percentile needs at least one sample")
    effect = design_effect(ordered_in_time, q, block)
    ordered = np.sort(ordered_in_time)
    low, high = _end_values(ordered, q, effect)
    notes = []
    if high is None or low is None:
        which = "upper" if high is None else "lower"
        more = math.ceil(smallest_n(q) * effect)
        notes.append(f"no {which} bound: {n} samples, {more} needed for p{100 * q:g}")
    if effect > 1:
        notes.append(f"neighbouring samples depend on each other; worth {n / effect:.0f} independent ones")
    return Metric(
        value=float(np.quantile(ordered, q)) * scale,
        unit=unit,
        estimator=f"p{100 * q:g} (type 7), 95 % order-statistic interval",
        n=n,
        low=None if low is None else low * scale,
        high=None if high is None else high * scale,
        note="; ".join(notes),
    )


def _end_values(ordered: Floats, q: float, effect: float) -> tuple[float | None, float | None]:
    """The order statistics at the interval's ranks; with dependence, at the same quantile levels of the smaller n."""
    n = len(ordered)
    worth = max(1, int(n / effect))
    low, high = interval_ranks(worth, q)
    if worth != n:
        low = None if low is None else max(1, math.floor(low * n / worth))
        high = None if high is None else min(n, math.ceil(high * n / worth))
    return (
        None if low is None else float(ordered[low - 1]),
        None if high is None else float(ordered[high - 1]),
    )


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, equation 4: the score interval). n >= 1; wide but valid at small n."""
    share = successes / n
    spread = Z_95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def block_length(n: int, at_least: int = 1) -> int:
    """Length of bootstrap blocks: n^(1/3) (Kuensch 1989's rate), at least `at_least`, at most a fifth of the data."""
    return max(1, min(max(round(math.cbrt(n)), at_least), n // 5))


def bootstrap_means(samples: Floats, block: int, seed: int) -> Floats:
    """Means of circular-block-bootstrap resamples (Politis & Romano 1992), BOOTSTRAP_ROUNDS of them."""
    n = len(samples)
    blocks = math.ceil(n / block)
    wrapped = np.concatenate([samples, samples[: block - 1]])
    sums = np.cumsum(np.concatenate([[0.0], wrapped]))
    block_sums = sums[block:] - sums[:-block]
    starts = np.random.default_rng(seed).integers(0, n, size=(BOOTSTRAP_ROUNDS, blocks))
    means: Floats = block_sums[starts].sum(axis=1) / (blocks * block)
    return means


def mean(samples: Sequence[float], *, unit: str = "ms", scale: float = 1e-6, block: int = 1, seed: int = 0) -> Metric:
    """Arithmetic mean of samples in time order, times `scale`, with a block-bootstrap percentile interval (n >= 10)."""
    values = np.asarray(samples, dtype=np.float64) * scale
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one sample")
    low = high = None
    length = block_length(n, block)
    if n >= MIN_BOOTSTRAP_N:
        low, high = (float(end) for end in np.quantile(bootstrap_means(values, length, seed), [_TAIL, 1 - _TAIL]))
    return Metric(
        value=float(values.mean()),
        unit=unit,
        estimator=f"mean, 95 % circular block bootstrap, blocks of {length}",
        n=n,
        low=low,
        high=high,
        note="" if low is not None else f"no interval below {MIN_BOOTSTRAP_N} samples",
    )


def rate(done_ns: Sequence[int], amounts: Sequence[float], window: tuple[int, int], *, unit: str, block: int) -> Metric:
    """Sum of `amounts` that were done inside `window` (begin, end; ns), per second.

    The interval resamples blocks of consecutive completions with the time gaps before them (seeded): answers that leave
    in one batch stay together. Needs 10 completions; below, no interval.
    """
    begin_ns, end_ns = window
    order = np.argsort(np.asarray(done_ns, dtype=np.int64), kind="stable")
    times = np.asarray(done_ns, dtype=np.int64)[order]
    weights = np.asarray(amounts, dtype=np.float64)[order]
    is_inside = (times >= begin_ns) & (times <= end_ns)
    times, weights = times[is_inside], weights[is_inside]
    n, window_s = len(times), (end_ns - begin_ns) / 1e9
    value = float(weights.sum()) / window_s if window_s > 0 else 0.0
    low = high = None
    length = block_length(n, block)
    if n >= MIN_BOOTSTRAP_N and window_s > 0:
        gaps = np.diff(np.concatenate([[begin_ns], times])).astype(np.float64) / 1e9
        rates = bootstrap_means(weights, length, 0) / np.maximum(bootstrap_means(gaps, length, 0), 1e-12)
        low, high = (float(end) for end in np.quantile(rates, [_TAIL, 1 - _TAIL]))
        low, high = min(low, value), max(high, value)
    return Metric(
        value=value,
        unit=unit,
        estimator=f"completions over time while every user was busy, 95 % block bootstrap, blocks of {length}",
        n=n,
        low=low,
        high=high,
        note="" if low is not None else f"no interval below {MIN_BOOTSTRAP_N} completions",
    )
