"""Arrival times of an open loop: the whole seeded schedule, computed before the load begins.

Every law is one unit-rate point process (equal, exponential or gamma gaps) seen through the inverse of the rate's
integral, so a ramp of Poisson arrivals is an exact inhomogeneous Poisson process (time rescaling). Offsets are whole
nanoseconds from the opening of the window; a load process waits for absolute times and never adds up sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import ScenarioError
from harness.load.schedule.request_times import MAX_REQUESTS, UNBOUNDED, Schedule, too_many, trace_schedule
from harness.load.schedule.trace import read_trace
from harness.scenario.load_kinds import ConstantLoad, Gaps, MaxRateLoad, Open, PoissonLoad, RatePart, TraceLoad
from harness.units import NS_PER_S


def schedule_of(
    load: Open, *, requests: int, max_duration_s: float, seed: int, trace_path: Path | None = None
) -> Schedule:
    """The schedule of an open load; equal arguments give equal schedules.

    constant, poisson and gamma end after `requests` or `max_duration_s`, whichever is first; a ramp takes
    `max_duration_s`, stages take their own durations, a trace ends at `max_duration_s` at the latest. For max_rate it
    is the schedule at low_rps. Raises ScenarioError: a bad trace, or a schedule that is empty or too long.
    """
    if isinstance(load, TraceLoad):
        assert trace_path is not None
        return trace_schedule(read_trace(trace_path, load.time_unit, load.block_tokens), load.speed, max_duration_s)
    parts, limit = _course(load, requests, max_duration_s)
    expected = min(sum(part.requests for part in parts), limit)
    if expected > MAX_REQUESTS:
        raise ScenarioError(too_many(expected))
    offsets = _offsets(parts, _draw(load.gaps()), np.random.default_rng([seed, _SEED_WORD]))
    total_s = sum(part.duration_s for part in parts)
    if len(offsets) > limit:
        total_s = float(offsets[limit]) / NS_PER_S  # the next arrival would have ended it
        offsets = offsets[:limit]
    if not len(offsets):
        raise ScenarioError(
            f"workload.load: not one request would be sent in {total_s:g} s at this rate; raise the rate or "
            "max_duration_s"
        )
    return Schedule(offsets_ns=tuple(offsets.tolist()), duration_s=total_s)


def at_rate(load: MaxRateLoad, rate_rps: float) -> ConstantLoad | PoissonLoad:
    """The load of one probe of a maximum-rate search."""
    kind = ConstantLoad if load.arrivals == "constant" else PoissonLoad
    return kind(
        kind=load.arrivals,  # type: ignore[arg-type]
        rate_rps=rate_rps,
        max_in_flight=load.max_in_flight,
        processes=load.processes,
    )


_SEED_WORD = 0xA2217A15
"""Keeps the arrivals' random stream apart from every other one of the same seed."""

_Draw = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]


def _course(load: Open, requests: int, max_duration_s: float) -> tuple[tuple[RatePart, ...], int]:
    """The rate's course, and the largest number of requests."""
    if not load.is_counted:
        return load.course(max_duration_s), UNBOUNDED
    # One gap of a bursty law may be many means long: the margin keeps a count-limited schedule from ending early.
    margin_s = load.seconds(2 * requests + 100, max_duration_s)
    return load.course(margin_s), requests


def _draw(gaps: Gaps) -> _Draw | None:
    """Draws gaps of mean 1; None for equal ones."""
    law, cv = gaps
    if law == "equal":
        return None
    if law == "exponential":
        return lambda rng, n: rng.exponential(1.0, n)
    shape = cv**-2.0
    return lambda rng, n: rng.gamma(shape, 1 / shape, n)


def _times_s(part: RatePart, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """When the expected number of requests since the part began reaches each of `counts` (all within it).

    Solves from*t + slope*t^2/2 = count in the form that stays exact when the slope goes to 0.
    """
    slope = (part.to_rps - part.from_rps) / part.duration_s
    root = np.sqrt(np.maximum(part.from_rps**2 + 2 * slope * counts, 0.0))
    # At a rate of 0 the first request of a rising ramp is due at once: 0/0 there.
    return np.divide(2 * counts, part.from_rps + root, out=np.zeros_like(counts), where=counts > 0)


def _offsets(parts: Sequence[RatePart], draw: _Draw | None, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    total = sum(part.requests for part in parts)
    counts = np.arange(np.ceil(total), dtype=np.float64) if draw is None else _points(draw, rng, total)
    times: list[npt.NDArray[np.float64]] = []
    before, begin_s = 0.0, 0.0
    for part in parts:
        inside = counts[(counts >= before) & (counts < before + part.requests)]
        times.append(begin_s + _times_s(part, inside - before))
        before += part.requests
        begin_s += part.duration_s
    return np.rint(np.concatenate(times) * NS_PER_S).astype(np.int64)


def _points(draw: _Draw, rng: np.random.Generator, total: float) -> npt.NDArray[np.float64]:
    """Points of the unit-rate process in [0, total)."""
    points = np.empty(0)
    last = 0.0
    while last < total:
        more = last + np.cumsum(draw(rng, max(64, int(1.1 * (total - last)) + 1)))
        points = np.concatenate([points, more])
        last = float(more[-1])
    return points[points < total]
