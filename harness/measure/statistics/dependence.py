"""Dependence between neighbouring samples: their effective number, and the block length for the bootstrap.

Answers that share a batch, a round of all users, a queue or a stall are not independent. Both rules read the dependence
from the samples themselves, so nobody has to know the server's batch size.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_N = 20
"""Fewer samples cannot separate dependence from chance."""
TAIL_SAMPLES = 50
"""Dependence at a quantile is read where at least this many samples are beyond it: six samples above a p99 are one
batch or six, and nothing in them shows which. Nearer to the median it is as large or larger: this errs to caution."""
CHANCE_EFFECT = 1.2
"""Independent samples show 1.05 to 1.1 on average; below this nothing is claimed (which costs 2 points of coverage)."""


def autocorrelations(values: Floats) -> Floats:
    """Sample autocorrelations at lags 0 .. n/2 (by FFT); empty for a constant series."""
    n = len(values)
    centred = values - values.mean()
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    products = np.fft.irfft(spectrum * np.conj(spectrum), size)[: n // 2 + 1]
    return products / products[0] if products[0] > 1e-12 * n else np.zeros(0, dtype=np.float64)


def inefficiency(values: Floats, block: int = 1) -> float:
    """How many of these samples are worth one independent sample for their mean; at least 1.

    1 + 2 * (sum of autocorrelations), summed in pairs while they stay positive and made non-increasing: the initial
    monotone sequence estimator (Geyer 1992, Practical Markov Chain Monte Carlo, 3.3). Where `block` neighbours may
    share a fate (a round of all users), the plain sum over that many lags when it is larger. 1.0 below 20 samples.
    """
    if len(values) < MIN_N:
        return 1.0
    rho = autocorrelations(values)
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    kept = np.minimum.accumulate(pairs[: negative[0] if len(negative) else len(pairs)])
    reach = pairs[: (block + 1) // 2] if block > 1 else pairs[:0]
    return max(1.0, 2.0 * float(kept.sum()) - 1.0, 2.0 * float(reach.sum()) - 1.0)


def design_effect(samples: Floats, q: float, block: int = 1) -> float:
    """How many of these samples, in time order, are worth one independent one for quantile `q`; at least 1.

    `inefficiency` of the indicator (sample beyond the quantile), at the level nearest `q` beyond which 50 samples are;
    `block` as there.
    """
    n = len(samples)
    if n < MIN_N:
        return 1.0
    edge = min(0.5, TAIL_SAMPLES / n)
    level = float(np.quantile(samples, min(max(q, edge), 1 - edge)))
    effect = inefficiency((samples > level).astype(np.float64), block)
    if np.any(samples == level):  # where many samples share the quantile's very value, one of the sides may be empty
        effect = max(effect, inefficiency((samples >= level).astype(np.float64), block))
    return effect if effect > CHANCE_EFFECT else 1.0


def block_length(values: Floats, at_least: int = 1) -> int:
    """Length of circular-bootstrap blocks by Politis & White (2004, corrected by Patton, Politis & White 2009).

    The length that minimises the error of the mean's variance, from flat-top-weighted autocovariances; at least
    `at_least`, at most a fifth of the data.
    """
    n = len(values)
    longest = max(1, n // 5)
    if n < MIN_N:
        return max(1, min(at_least, longest))
    rho = autocorrelations(values)
    spread = _flat_top_reach(rho, n)
    lags = np.arange(1, min(2 * spread, len(rho) - 1) + 1)
    if len(lags) == 0:
        return max(1, min(at_least, longest))
    weights = np.minimum(1.0, 2.0 * (1.0 - lags / (2 * spread)))
    curvature = 2.0 * float((weights * lags * rho[lags]).sum())
    level = 1.0 + 2.0 * float((weights * rho[lags]).sum())
    best = math.cbrt(1.5 * curvature**2 / max(level, 1e-6) ** 2 * n)  # 2 G^2 / D with D = 4/3 g(0)^2
    return max(1, min(max(math.ceil(best), at_least), longest))


def _flat_top_reach(rho: Floats, n: int) -> int:
    """The lag after which autocorrelations are noise: K consecutive ones below 2 sqrt(log10(n)/n), at least 1."""
    if len(rho) < 2:
        return 1
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    bound = 2.0 * math.sqrt(math.log10(n) / n)
    is_large = np.flatnonzero(np.abs(rho[1:]) >= bound)
    last = 0
    for lag in is_large + 1:
        if lag > last + run:
            break
        last = int(lag)
    return max(1, last)
