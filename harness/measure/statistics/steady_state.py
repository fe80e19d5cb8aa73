"""Tests for a steady state of latencies in time order: drift, and a warm-up that was too short.

The series is cut into 12 blocks of equal numbers; their medians are compared. A block is long against the dependence of
neighbours, and its median does not follow one outlier. Nothing is ever cut off the data: a window that is not steady is
reported, not trimmed (MSER-5 and its kin move the number they are asked to protect).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

BLOCKS = 12
SMALLEST_N = 120
"""Ten samples a block; with fewer a block's median is noise."""
LARGEST_U = 2
"""Rank sum of 6 against 6 (Mann & Whitney 1947): U <= 2 in either direction has probability 8/924 = 0.9 %."""
DRIFT_FRAC = 0.05
"""A smaller change of the median is no matter, however significant."""
WARM_FRAC = 0.20
WARM_DEVIATIONS = 10.0
"""The first block stands out: by 20 %, and by ten times the median deviation of the other blocks' medians."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsteady:
    """What was found: 'drift' (early and late are the two halves) or 'warmup' (the first block against the others)."""

    kind: Literal["drift", "warmup"]
    early: float
    late: float


def unsteadiness(samples: Sequence[float]) -> Unsteady | None:
    """Drift between the halves, or a first twelfth that stands out; None when steady, or with fewer than 120 samples.

    False alarms: under 1 % for the drift, and less for the warm-up, on independent samples (simulated).
    """
    values = np.asarray(samples, dtype=np.float64)
    if len(values) < SMALLEST_N:
        return None
    medians = np.array([np.median(part) for part in np.array_split(values, BLOCKS)])
    early, late = medians[: BLOCKS // 2], medians[BLOCKS // 2 :]
    larger = float((late[:, None] > early[None, :]).sum() + 0.5 * (late[:, None] == early[None, :]).sum())
    before, after = float(np.median(early)), float(np.median(late))
    is_ordered = min(larger, early.size * late.size - larger) <= LARGEST_U
    if is_ordered and abs(after - before) > DRIFT_FRAC * min(before, after):
        return Unsteady(kind="drift", early=before, late=after)
    rest = float(np.median(medians[1:]))
    deviation = float(np.median(np.abs(medians[1:] - rest)))
    if abs(medians[0] - rest) > max(WARM_FRAC * rest, WARM_DEVIATIONS * deviation):
        return Unsteady(kind="warmup", early=float(medians[0]), late=rest)
    return None
