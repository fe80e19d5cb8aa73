"""Lower bounds of how much worse one load is than another, from the same request numbers of both, in blocks.

Medians, means and throughputs: the logarithm of their ratio in each pair of blocks, and Student's t. A percentile of
the tail exists in no block, nor does a share of good requests as a ratio. There a bound is found by inverting a test:
'worse by at most r' is refuted when requests of the one exceed (1 + r) times the other's percentile more often than
requests of the other exceed it, request by request, summed in blocks; the bound is the largest r that is refuted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.measure.statistics.dependence import inefficiency
from harness.measure.statistics.distributions import t_quantile

Floats = npt.NDArray[np.float64]

MIN_BLOCKS = 8
"""Fewer blocks hardly show how much they vary."""
DEPENDENCES = 4.0
"""A block is this many times as long as the number of neighbours that are worth one independent request."""
STEPS = 20
"""Halvings in which the largest refuted ratio is looked for: to a millionth of where it can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How much worse the one is, as estimated and at least, by so many pairs of blocks of so many requests."""

    worse_frac: float
    at_least_frac: float
    blocks: int
    block_requests: int


def length_of(values: Floats, round_requests: int) -> int:
    """Requests in a block that is longer than the dependence between neighbours, and than a round of all users."""
    return max(round_requests, math.ceil(DEPENDENCES * inefficiency(values, round_requests)))


def of_ratios(worse: Floats, length: int, level: float, min_blocks: int = MIN_BLOCKS) -> Bound | None:
    """By the logarithm of the ratio in each pair of blocks of that length; None of fewer than `min_blocks`."""
    if len(worse) < min_blocks:
        return None
    worth = len(worse) / inefficiency(worse)
    estimate, error = float(worse.mean()), float(worse.std(ddof=1)) / math.sqrt(worth)
    least = estimate - t_quantile(1 - level, worth - 1) * error
    return Bound(
        worse_frac=math.expm1(estimate), at_least_frac=math.expm1(least), blocks=len(worse), block_requests=length
    )


def of_tails(mine: Floats, best: Floats, q: float, level: float, round_requests: int, margin: float) -> Bound | None:
    """By how much the quantile `q` of `mine` is surely above that of `best`; None where it is not by `margin`."""
    edge = float(np.sort(best)[math.ceil(len(best) * q) - 1])
    beyond = (best >= edge).astype(np.float64)

    def excess(ratio: float) -> Floats:
        return (mine > (1 + ratio) * edge) - beyond

    highest = float(mine.max()) / edge - 1
    found = _inverted(excess, level, round_requests, margin, highest)
    return None if found is None else _bound(float(np.quantile(mine, q)) / edge - 1, found)


def of_good(mine: Floats, best: Floats, level: float, round_requests: int, margin: float) -> Bound | None:
    """By how much the share of good requests is surely lower in `mine` than in `best` (1 good, 0 not), as the factor
    best / mine less 1; None where it is not by `margin`."""

    def excess(ratio: float) -> Floats:
        return best - (1 + ratio) * mine

    share = max(float(mine.mean()), 0.5 / len(mine))
    found = _inverted(excess, level, round_requests, margin, float(best.mean()) / share - 1)
    return None if found is None else _bound(float(best.mean()) / share - 1, found)


Found = tuple[float, int, int]
"""(the largest refuted ratio, blocks, requests in each)."""


def _bound(estimate: float, found: Found) -> Bound:
    least, blocks, length = found
    return Bound(worse_frac=max(estimate, least), at_least_frac=least, blocks=blocks, block_requests=length)


def _inverted(
    excess: Callable[[float], Floats], level: float, round_requests: int, low: float, high: float
) -> Found | None:
    """The largest ratio from `low` to `high` at which the mean of `excess` is surely positive."""
    first = excess(low)
    length = length_of(first, round_requests)
    blocks = len(first) // length
    if blocks < MIN_BLOCKS or not _is_positive(first, length, level):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _is_positive(excess(middle), length, level) else (low, middle)
    return low, blocks, length


def _is_positive(each: Floats, length: int, level: float) -> bool:
    """Whether the mean is above 0 but for `level`, by blocks. Few requests decide a tail, and blocks may by chance hold
    equally many of them: the error is never taken as smaller than that of as many independent ones."""
    blocks = each[: len(each) // length * length].reshape(-1, length).mean(axis=1)
    worth = len(blocks) / inefficiency(blocks)
    of_blocks = float(blocks.std(ddof=1)) / math.sqrt(worth)
    of_each = math.sqrt(float((each**2).sum())) / len(each)
    return float(blocks.mean()) > t_quantile(1 - level, worth - 1) * max(of_blocks, of_each)
