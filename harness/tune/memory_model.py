"""The memory of an engine as its own launches showed it, and the candidates that the machine has too little for.

peak = base + workers * (weights + rows * batch_size), each part not negative, fitted to the peaks of launches that
differ in workers and batch size alone. Nothing is known before the third of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.measure.metrics import metric_of
from harness.records import Candidate, Trial
from harness.tune.implausible import group_of

LAUNCHES = 3
"""Launches of a group from which its memory is known: as many as the model has parts."""
MARGIN_FRAC = 0.05
"""The lower bound is at least this far below the prediction; further where a launch was further from its own."""
PEAK = "peak_memory_mib"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """The parts of the peak in MiB, the launches that they rest on, and how far the worst of these lay off."""

    base_mib: float
    weights_mib: float
    rows_mib: float
    launches: int
    off_frac: float

    def predicted_mib(self, candidate: Candidate) -> float:
        """The expected peak."""
        return self.base_mib + candidate.workers * (self.weights_mib + self.rows_mib * candidate.batch_size)

    def least_mib(self, candidate: Candidate) -> float:
        """The lower bound of the peak."""
        return self.predicted_mib(candidate) * (1 - max(MARGIN_FRAC, 2 * self.off_frac))


def memory_model(candidate: Candidate, trials: Sequence[Trial]) -> MemoryModel | None:
    """The memory of `candidate` by earlier launches; None below LAUNCHES different ones of its group."""
    peaks: dict[tuple[int, int], list[float]] = {}
    for trial in trials:
        metric = metric_of(trial, PEAK)
        if trial.outcome == "ok" and metric is not None and group_of(trial.candidate) == group_of(candidate):
            peaks.setdefault((trial.candidate.workers, trial.candidate.batch_size), []).append(metric.value)
    if len(peaks) < LAUNCHES:
        return None
    shapes = np.array([(1.0, workers, workers * batch) for workers, batch in peaks])
    values = np.array([max(each) for each in peaks.values()])
    parts = _not_negative(shapes, values)
    off = np.abs(shapes @ parts - values) / values
    base, weights, rows = parts.tolist()
    return MemoryModel(
        base_mib=base, weights_mib=weights, rows_mib=rows, launches=len(peaks), off_frac=float(off.max())
    )


def why_too_large(candidate: Candidate, trials: Sequence[Trial], memory_mib: float) -> str | None:
    """Why `candidate` cannot fit into the machine's memory, with the arithmetic; None where it may, or is not known."""
    model = memory_model(candidate, trials) if candidate.device == "cpu" else None
    if model is None or model.least_mib(candidate) <= memory_mib:
        return None
    return (
        f"needs at least {model.least_mib(candidate):.0f} MiB of {memory_mib:.0f}: by {model.launches} launches, "
        f"{model.base_mib:.0f} + {candidate.workers} workers x ({model.weights_mib:.0f} + {candidate.batch_size} x "
        f"{model.rows_mib:.1f}) = {model.predicted_mib(candidate):.0f} MiB, the worst of them "
        f"{100 * model.off_frac:.1f} % off"
    )


def _not_negative(shapes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The least-squares parts that are not negative: the best of the fits by every subset of the columns."""
    best, error = np.zeros(shapes.shape[1]), np.inf
    for count in range(1, shapes.shape[1] + 1):
        for columns in itertools.combinations(range(shapes.shape[1]), count):
            found = np.linalg.lstsq(shapes[:, columns], values, rcond=None)[0]
            off = float(((shapes[:, columns] @ found - values) ** 2).sum())
            if found.min() >= 0 and off < error - 1e-9:
                best, error = np.zeros(shapes.shape[1]), off
                best[list(columns)] = found
    return best
