"""Failures as a lesson of the search: the like of what crashed, hung or was refused is tried less, yet not never."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.records import Candidate
from harness.tune.surrogate import Distances, Floats, fitted

LEAST = 0.05
"""The chance that is left to what resembles nothing but failures."""


def chances_to_run(
    distances: Distances, tried: Sequence[Candidate], ran: Sequence[bool], candidates: Sequence[Candidate]
) -> Floats:
    """For each candidate the chance that it runs, from LEAST to 1, by which of `tried` ran; 1 while all of them did.

    A Gaussian process over 0 and 1 (least-squares classification: Rasmussen and Williams 2006, section 6.5).
    """
    if all(ran) or len(tried) < 2:
        return np.ones(len(candidates))
    if not any(ran):
        return np.full(len(candidates), LEAST)
    mean, _ = fitted(distances, tried, [float(each) for each in ran]).predict(candidates)
    return np.clip(mean, LEAST, 1.0)
