"""A Gaussian process over candidates: what an unmeasured one should cost, and what the next trial should gain.

Axes of numbers count as ordered (by logarithm, as batch sizes and workers go), all others as equal or not. The kernel
is exp(-distance / length), the distance the sum over the axes; length and noise are those of the largest likelihood on
a small grid (Rasmussen and Williams 2006, equation 2.30, the scale profiled out).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from harness.records import Candidate

Floats = npt.NDArray[np.float64]

LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""In axes: beyond so many that differ, two candidates have little in common."""
NOISES = (0.003, 0.03, 0.3)
"""Variance between launches over variance between candidates."""


class Distances:
    """How far candidates of one space lie from each other; an axis counts at most 1."""

    def __init__(self, space: Sequence[Candidate]) -> None:
        points = [each.axes() for each in space]
        self._codes: dict[str, dict[str, float]] = {}
        """Axis -> value -> where it lies, an ordered axis from 0 to 1."""
        self._ordered: set[str] = set()
        self._known: dict[str, Floats] = {}
        """Candidate id -> where it lies on each axis; NaN for a value that the space has not got."""
        for name in sorted({name for point in points for name in point}):
            values = {repr(point.get(name)): point.get(name) for point in points}
            numbers = [math.log1p(each) for each in values.values() if _is_count(each)]  # type: ignore[arg-type]
            if len(numbers) == len(values):
                self._ordered.add(name)
                low, span = min(numbers), (max(numbers) - min(numbers)) or 1.0
                self._codes[name] = {word: (number - low) / span for word, number in zip(values, numbers, strict=True)}
            else:
                self._codes[name] = {word: float(index) for index, word in enumerate(values)}

    def between(self, some: Sequence[Candidate], others: Sequence[Candidate]) -> Floats:
        """[len(some), len(others)]: the sum over the axes. A value that the space has not got is 1 from every other."""
        total = np.zeros((len(some), len(others)))
        rows, columns = self._places(some), self._places(others)
        for index, name in enumerate(self._codes):
            apart = np.abs(rows[:, index, None] - columns[:, index])
            total += np.fmin(apart, 1.0) if name in self._ordered else apart != 0
        return total

    def _places(self, candidates: Sequence[Candidate]) -> Floats:
        """[len(candidates), axes]"""
        for each in candidates:
            if each.candidate_id not in self._known:
                point = each.axes()
                codes = [codes.get(repr(point.get(name)), math.nan) for name, codes in self._codes.items()]
                self._known[each.candidate_id] = np.array(codes)
        places = [self._known[each.candidate_id] for each in candidates]
        return np.array(places, dtype=np.float64).reshape(len(candidates), len(self._codes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """Costs that were measured, and what they suggest for others. `costs` are logarithms, smaller better."""

    distances: Distances
    measured: tuple[Candidate, ...]
    mean: float
    length: float
    scale: float
    weights: Floats
    inverse: Floats

    def predict(self, candidates: Sequence[Candidate]) -> tuple[Floats, Floats]:
        """(mean, standard deviation) of the logarithm of each one's cost, launches aside."""
        near = np.exp(-self.distances.between(candidates, self.measured) / self.length)
        left = 1.0 - np.einsum("ij,jk,ik->i", near, self.inverse, near)
        return self.mean + near @ self.weights, np.sqrt(self.scale * np.maximum(left, 0.0))


def fitted(
    distances: Distances, measured: Sequence[Candidate], costs: Sequence[float], noise_of: Sequence[float] = ()
) -> Surrogate:
    """The surrogate of two candidates or more with the logarithm of the cost of each; `noise_of` multiplies the noise
    of each, by default by 1."""
    values = np.array(costs)
    mean, apart = float(values.mean()), distances.between(measured, measured)
    best: tuple[float, Surrogate] | None = None
    for length, noise in itertools.product(LENGTHS, NOISES):
        covariance = np.exp(-apart / length) + noise * np.diag(noise_of or np.ones(len(measured)))
        inverse: Floats = np.linalg.inv(covariance).astype(np.float64)
        weights = inverse @ (values - mean)
        scale = max(float((values - mean) @ weights) / len(measured), 1e-12)
        _, logdet = np.linalg.slogdet(covariance)
        fit = -0.5 * (len(measured) * math.log(scale) + float(logdet))
        if best is None or fit > best[0]:
            made = Surrogate(
                distances=distances, measured=tuple(measured), mean=mean, length=length, scale=scale, weights=weights,
                inverse=inverse,
            )  # fmt: skip
            best = fit, made
    assert best is not None
    return best[1]


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """How much below `best` each cost should come, where it does (Jones, Schonlau and Welch 1998, equation 15)."""
    normal = NormalDist()
    gains = np.maximum(best - mean, 0.0)
    for index in np.flatnonzero(deviation > 0):
        z = (best - mean[index]) / deviation[index]
        gains[index] = deviation[index] * (z * normal.cdf(z) + normal.pdf(z))
    return gains


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
