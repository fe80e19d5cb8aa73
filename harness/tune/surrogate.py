"""A Gaussian process over candidates: what an unmeasured one should cost, and what the next trial should gain.

Axes of numbers count as ordered (by logarithm, as batch sizes and workers go), all others as equal or not. The kernel
is exp(-sum over the axes of rate x distance); rates and noise are those of the largest likelihood (Rasmussen and
Williams 2006, equation 2.30, with the scale profiled out and the mean fitted): one rate for all axes from a small grid,
or one for each axis, found axis by axis under a prior by which most axes matter little.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from harness.records import Candidate

Floats = npt.NDArray[np.float64]

LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""In axes: beyond so many that differ, two candidates have little in common."""
NOISES = (0.003, 0.03, 0.3)
"""Variance between launches over variance between candidates."""
RATES = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)
"""Where the search for a rate of each axis begins."""
FINE_NOISES = (0.0003, 0.003, 0.03, 0.3)
RATE_LOG_MEAN, RATE_LOG_SD = -2.0, 1.0
"""The prior of an axis's rate, a normal one of its logarithm. Low: sums of effects of one axis or two are likelier than
what needs all axes to agree. Of -1 and -2 the latter found more on a law of two interactions, else as much."""
STEPS = np.array([0.125, 0.4, 1.0, 2.5, 8.0])
SWEEPS = 2
LEAST_NOISE, MOST_NOISE = 1e-5, 0.5
FAR = 1e300


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
            counts = {word: math.log1p(each) for word, each in values.items() if _is_count(each)}  # type: ignore[arg-type]
            if counts and all(each is None or word in counts for word, each in values.items()):
                self._ordered.add(name)
                low, span = min(counts.values()), (max(counts.values()) - min(counts.values())) or 1.0
                self._codes[name] = {word: (counts[word] - low) / span if word in counts else -1.0 for word in values}
            else:
                self._codes[name] = {word: float(index) for index, word in enumerate(values)}

    def between(self, some: Sequence[Candidate], others: Sequence[Candidate]) -> Floats:
        """[len(some), len(others)]: the sum over the axes."""
        total: Floats = self.by_axis(some, others).sum(axis=0)
        return total

    def by_axis(self, some: Sequence[Candidate], others: Sequence[Candidate]) -> Floats:
        """[axes, len(some), len(others)]. A value that the space has not got is 1 from every other, and so is None from
        every number."""
        found = np.zeros((len(self._codes), len(some), len(others)))
        rows, columns = self._places(some), self._places(others)
        for index, name in enumerate(self._codes):
            apart = np.abs(rows[:, index, None] - columns[:, index])
            found[index] = np.fmin(apart, 1.0) if name in self._ordered else apart != 0
        return found

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
    """Costs that were measured, and what they suggest for others. `costs` are logarithms, smaller better; `rates` is
    one for each axis, `noise` one for each cost."""

    distances: Distances
    measured: tuple[Candidate, ...]
    costs: Floats
    rates: Floats
    noise: Floats
    mean: float
    scale: float
    weights: Floats
    inverse: Floats

    def predict(self, candidates: Sequence[Candidate]) -> tuple[Floats, Floats]:
        """(mean, standard deviation) of the logarithm of each one's cost, launches aside."""
        near = np.exp(-np.tensordot(self.rates, self.distances.by_axis(candidates, self.measured), 1))
        left = 1.0 - ((near @ self.inverse) * near).sum(axis=1)
        return self.mean + near @ self.weights, np.sqrt(self.scale * np.maximum(left, 0.0))

    def awaiting(self, pending: Sequence[Candidate]) -> Surrogate:
        """The same where `pending` had cost what is expected of them: nothing else is expected, yet less is unknown."""
        if not pending:
            return self
        costs = np.concatenate([self.costs, self.predict(pending)[0]])
        noise = np.concatenate([self.noise, np.full(len(pending), np.median(self.noise))])
        measured = (*self.measured, *pending)
        apart = self.distances.by_axis(measured, measured)
        made = _Fits.of(apart, costs, self.rates[None], noise[None]).surrogate(0, self.distances, measured)
        return replace(made, mean=self.mean, scale=self.scale, weights=made.inverse @ (costs - self.mean))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fits:
    """The process under several settings of `rates` [settings, axes] and `noise` [settings, costs]."""

    apart: Floats
    costs: Floats
    rates: Floats
    noise: Floats
    means: Floats
    scales: Floats
    likelihoods: Floats

    @classmethod
    def of(cls, apart: Floats, costs: Floats, rates: Floats, noise: Floats) -> _Fits:
        """`apart`: the distances of the measured by axis."""
        count = len(costs)
        # Below the covariance, in its Cholesky factor L, a row b becomes (L^-1 b)': so this one factor has all that a
        # likelihood needs, for an eighth of what the inverse and the determinant cost. FAR keeps the whole positive.
        framed = np.zeros((len(rates), count + 2, count + 2))
        framed[:, :count, :count] = _covariances(apart, rates, noise)
        framed[:, count, :count], framed[:, count + 1, :count] = 1.0, costs
        framed[:, count, count] = framed[:, count + 1, count + 1] = FAR
        factors = np.linalg.cholesky(framed)
        ones, values = factors[:, count, :count], factors[:, count + 1, :count]
        means = (ones * values).sum(axis=1) / (ones * ones).sum(axis=1)
        off = values - means[:, None] * ones
        scales = np.maximum((off * off).sum(axis=1) / count, 1e-12)
        half_log_det = np.log(np.diagonal(factors, axis1=1, axis2=2)[:, :count]).sum(axis=1)
        likelihoods = -0.5 * count * np.log(scales) - half_log_det
        return cls(
            apart=apart, costs=costs, rates=rates, noise=noise, means=means, scales=scales, likelihoods=likelihoods
        )

    def surrogate(self, index: int, distances: Distances, measured: Sequence[Candidate]) -> Surrogate:
        """The process under one of the settings."""
        own = slice(index, index + 1)
        inverse: Floats = np.linalg.inv(_covariances(self.apart, self.rates[own], self.noise[own])[0])
        mean = float(self.means[index])
        return Surrogate(
            distances=distances, measured=tuple(measured), costs=self.costs, rates=self.rates[index],
            noise=self.noise[index], mean=mean, scale=float(self.scales[index]),
            weights=inverse @ (self.costs - mean), inverse=inverse,
        )  # fmt: skip


def _covariances(apart: Floats, rates: Floats, noise: Floats) -> Floats:
    """[settings, costs, costs]"""
    found: Floats = np.exp(-np.tensordot(rates, apart, 1))
    diagonal = np.arange(noise.shape[1])
    found[:, diagonal, diagonal] += noise
    return found


def fitted(
    distances: Distances, measured: Sequence[Candidate], costs: Sequence[float], noise_of: Sequence[float] = ()
) -> Surrogate:
    """The surrogate of two candidates or more with the logarithm of the cost of each, under one rate for all axes;
    `noise_of` multiplies the noise of each, by default by 1."""
    apart = distances.by_axis(measured, measured)
    settings = np.array(list(itertools.product(LENGTHS, NOISES)))
    rates = np.repeat(1 / settings[:, :1], len(apart), axis=1)
    noise = settings[:, 1:] * np.array(noise_of or np.ones(len(measured)))
    fits = _Fits.of(apart, np.array(costs), rates, noise)
    return fits.surrogate(int(np.argmax(fits.likelihoods)), distances, measured)


def fitted_by_axis(distances: Distances, measured: Sequence[Candidate], costs: Sequence[float]) -> Surrogate:
    """The surrogate of two candidates or more with the logarithm of the cost of each, under a rate for each axis.

    From the best of a grid of equal rates, SWEEPS times axis by axis, then the noise, the best of STEPS is taken.
    """
    apart, values = distances.by_axis(measured, measured), np.array(costs)
    varying = np.flatnonzero(apart.any(axis=(1, 2)))
    settings = np.array(list(itertools.product(RATES, FINE_NOISES)))
    rates, noise = np.repeat(settings[:, :1], len(apart), axis=1), settings[:, 1]

    def best(rates: Floats, noise: Floats) -> tuple[_Fits, int]:
        fits = _Fits.of(apart, values, rates, np.repeat(noise[:, None], len(values), axis=1))
        far = (np.log(rates[:, varying]) - RATE_LOG_MEAN) / RATE_LOG_SD
        return fits, int(np.argmax(fits.likelihoods - 0.5 * (far * far).sum(axis=1)))

    fits, at = best(rates, noise)
    for turn in SWEEPS * [*varying.tolist(), None]:
        rates, noise = np.repeat(fits.rates[at : at + 1], len(STEPS), axis=0), np.repeat(fits.noise[at, 0], len(STEPS))
        if turn is None:
            noise = np.clip(noise * STEPS, LEAST_NOISE, MOST_NOISE)
        else:
            rates[:, turn] *= STEPS
        fits, at = best(rates, noise)
    return fits.surrogate(at, distances, measured)


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
