"""Peaks of an engine's launches, explained: base + workers * (weights + rows * batch_size), each part not negative.

What few launches leave open stands as several explanations, each of which agrees with all of them: of one launch all
may be base, weights or rows. Dtypes are fitted together, so that an engine's third launch is enough for all of them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from engines.models.memory import VALUE_BYTES
from harness.records import Candidate

Shape = tuple[str, int, int]
"""Dtype, workers and batch size of a launch."""
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

AGREES_FRAC = 0.03
"""An explanation agrees with launches from none of which it is further off than this, or than twice the best one is."""
SIZE_FACTOR = 1.5
"""How far the size of a dtype's values may be from its own: weights are packed, and some stay as they were."""
_FITS = 6
"""Parts and sizes are fitted in turn; the sizes of the laws in the tests are within 1 % after so many."""
_Growth = Literal["none", "size", "width"]
_GROWTHS: tuple[tuple[_Growth, ...], ...] = (
    ("none", "size", "size"), ("none", "size", "width"), ("size", "none", "width"),
)  # fmt: skip
"""How base, weights and rows grow with the dtype: with the size of a value, or with the width of what is computed,
which integer weights leave at 16 bits. In the last the weights are in the base: all workers share them."""
_COLUMNS = [columns for count in (1, 2, 3) for columns in itertools.combinations(range(3), count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Parts in MiB (base, weights, rows) that agree with launches, how they grow with the dtype, the size in bytes of
    each launched dtype's values as it fits best, and how far the worst launch is off."""

    parts: tuple[float, ...]
    growths: tuple[_Growth, ...]
    sizes: Mapping[str, float]
    off_frac: float

    def parts_of(self, dtype: str) -> tuple[float, ...]:
        """Base, weights and rows in MiB of an engine in `dtype`."""
        return tuple(part * by for part, by in zip(self.parts, _factors(dtype, self.sizes, self.growths), strict=True))

    def peak_mib(self, candidate: Candidate) -> float:
        """The peak that `candidate` has if this is right."""
        work = (1, candidate.workers, candidate.workers * candidate.batch_size)
        return sum(map(prod, zip(self.parts_of(candidate.dtype), work, strict=True)))


def explanations(peaks: Mapping[Shape, float]) -> list[Explanation]:
    """Every explanation of `peaks` in MiB, of which there is at least one, the best first."""
    growths = _GROWTHS if len({dtype for dtype, _, _ in peaks}) > 1 else _GROWTHS[:1]
    fits = (_fitted(peaks, columns, growth) for growth in growths for columns in _COLUMNS)
    found = sorted((each for each in fits if each is not None), key=lambda each: round(each.off_frac, 6))
    most = max(AGREES_FRAC, 2 * found[0].off_frac)
    return [each for each in found if each.off_frac <= most]


def least_peak_mib(peaks: Mapping[Shape, float], candidate: Candidate, noise_frac: float) -> float:
    """What `candidate` needs at least by the peaks of launches in its dtype, whichever parts are right and although
    each peak may be off by `noise_frac`. Shares of the peaks whose launches together do no more than it does are a
    lower bound; noise takes from it what it is of each of them, so that a bound far from all launches is a low one."""
    asked = np.array((1.0, candidate.workers, candidate.workers * candidate.batch_size))
    work = np.array([(1.0, workers, workers * batch) for _, workers, batch in peaks])
    work /= np.array(list(peaks.values()))[:, None]
    least = 0.0
    for columns in _COLUMNS:
        shares = asked[list(columns)] @ np.linalg.pinv(work[:, columns])
        if (shares @ work <= asked * (1 + 1e-9)).all():
            least = max(least, float(shares.sum() - noise_frac * np.abs(shares).sum()))
    return least


def _fitted(peaks: Mapping[Shape, float], columns: tuple[int, ...], growths: tuple[_Growth, ...]) -> Explanation | None:
    """The parts in `columns`, the others 0; None where launches leave them open, or one would be negative. The dtype
    launched most keeps its size: the others are relative to it."""
    counts = Counter(dtype for dtype, _, _ in peaks)
    values = np.array(list(peaks.values()))
    work = np.array([(1.0, workers, workers * batch) for _, workers, batch in peaks]) / values[:, None]
    sizes = {dtype: VALUE_BYTES.get(dtype, 1.0) for dtype in counts}
    is_sized = np.array([growth == "size" for growth in growths])
    found = None
    for _ in range(_FITS):
        shapes = work * np.array([_factors(dtype, sizes, growths) for dtype, _, _ in peaks])
        parts = _not_negative(shapes, columns)
        if parts is None:
            return None
        off_frac = float(np.abs(shapes @ parts - 1).max())
        found = Explanation(parts=tuple(parts.tolist()), growths=growths, sizes=dict(sizes), off_frac=off_frac)
        fixed, per_byte = (shapes * ~is_sized) @ parts, (work * is_sized) @ parts
        for dtype, _ in counts.most_common()[1:]:
            mine = np.array([shape[0] == dtype for shape in peaks])
            if per_byte[mine].min() > 0:
                own = float(((1 - fixed[mine]) * per_byte[mine]).sum() / (per_byte[mine] ** 2).sum())
                usual = VALUE_BYTES.get(dtype, 1.0)
                sizes[dtype] = min(max(own, usual / SIZE_FACTOR), usual * SIZE_FACTOR)
    return found


def _not_negative(shapes: Floats, columns: tuple[int, ...]) -> Floats | None:
    """By least squares of shares of each peak: the parts in `columns`, 0 elsewhere."""
    parts, _, rank, _ = np.linalg.lstsq(shapes[:, columns], np.ones(len(shapes)), rcond=None)
    if rank < len(columns) or parts.min() < 0:
        return None
    whole = np.zeros(shapes.shape[1])
    whole[list(columns)] = parts
    return whole


def _factors(dtype: str, sizes: Mapping[str, float], growths: Sequence[_Growth]) -> list[float]:
    """What each part is multiplied by in `dtype`."""
    size = sizes.get(dtype, VALUE_BYTES.get(dtype, 1.0))
    by: Mapping[_Growth, float] = {"none": 1.0, "size": size, "width": 4.0 if dtype == "fp32" else 2.0}
    return [by[growth] for growth in growths]
