"""Schedules: their statistics against what was asked, their reproducibility, their split, and their bounds."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import ScenarioError
from harness.load.plan import part_of
from harness.load.schedule.arrivals import at_rate, schedule_of
from harness.load.schedule.request_times import Schedule
from harness.scenario.load_kinds import (
    ConstantLoad,
    GammaLoad,
    MaxRateLoad,
    Open,
    PoissonLoad,
    RampLoad,
    Stage,
    StagesLoad,
)

POISSON = PoissonLoad(kind="poisson", rate_rps=50.0)
CONSTANT = ConstantLoad(kind="constant", rate_rps=50.0)


def _of(load: Open, requests: int = 10**6, duration_s: float = 400.0, seed: int = 3) -> Schedule:
    return schedule_of(load, requests=requests, max_duration_s=duration_s, seed=seed)


def _gaps_s(schedule: Schedule) -> np.ndarray:
    return np.diff(np.asarray(schedule.offsets_ns)) / 1e9


def test_a_constant_rate_has_equal_gaps_and_does_not_drift() -> None:
    schedule = _of(ConstantLoad(kind="constant", rate_rps=3.0), duration_s=1000.0)
    assert len(schedule.offsets_ns) == 3000
    assert all(offset == round(k * 1e9 / 3) for k, offset in enumerate(schedule.offsets_ns))
    assert schedule.asked_rps == 3.0


@pytest.mark.parametrize(
    ("load", "cv"),
    [(POISSON, 1.0), (GammaLoad(kind="gamma", rate_rps=50.0, cv=1.0), 1.0),
     (GammaLoad(kind="gamma", rate_rps=50.0, cv=3.0), 3.0), (GammaLoad(kind="gamma", rate_rps=50.0, cv=0.3), 0.3)],
)  # fmt: skip
def test_rate_and_variation_are_those_asked_for(load: Open, cv: float) -> None:
    """20,000 gaps: the mean's standard error is cv / sqrt(n) = 0.7 cv %; four of them and 6 % for the variation."""
    gaps = _gaps_s(_of(load))
    assert gaps.mean() == pytest.approx(1 / 50, rel=4 * cv / np.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06)
    assert gaps.min() >= 0


def test_poisson_gaps_are_exponential() -> None:
    """Kolmogorov-Smirnov at 1 %: the critical value is 1.63 / sqrt(n)."""
    gaps = np.sort(_gaps_s(_of(POISSON)))
    expected = 1 - np.exp(-gaps * 50)
    ranks = np.arange(1, len(gaps) + 1) / len(gaps)
    assert np.max(np.abs(ranks - expected)) < 1.63 / np.sqrt(len(gaps))


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_a_ramp_reaches_its_rates(arrivals: str) -> None:
    """Requests up to t are from*t + (to - from) t^2 / 2D: for equal gaps to one request, else to 4 sigma."""
    ramp = RampLoad(kind="ramp", from_rps=20.0, to_rps=100.0, arrivals=arrivals)  # type: ignore[arg-type]
    offsets = np.asarray(_of(ramp, duration_s=100.0).offsets_ns) / 1e9
    for at_s in (10.0, 50.0, 99.0):
        expected = 20 * at_s + 80 * at_s**2 / 200
        allowed = 1.0 if arrivals == "constant" else 4 * np.sqrt(expected)
        assert abs(np.sum(offsets < at_s) - expected) <= allowed


def test_a_ramp_from_zero_and_a_ramp_to_zero_are_mirror_images() -> None:
    up = _of(RampLoad(kind="ramp", from_rps=0.0, to_rps=40.0, arrivals="constant"), duration_s=10.0)
    down = _of(RampLoad(kind="ramp", from_rps=40.0, to_rps=0.0, arrivals="constant"), duration_s=10.0)
    assert len(up.offsets_ns) == len(down.offsets_ns) == 200
    mirrored = [round(10e9) - offset for offset in reversed(down.offsets_ns)]
    assert np.allclose(mirrored[:-1], up.offsets_ns[1:], atol=2_000)


def test_stages_keep_their_rates_and_a_pause_is_silent() -> None:
    stages = (
        Stage(rate_rps=10.0, duration_s=5.0), Stage(rate_rps=0.0, duration_s=2.0), Stage(rate_rps=40.0, duration_s=5.0)
    )  # fmt: skip
    schedule = _of(StagesLoad(kind="stages", stages=stages, arrivals="constant"), duration_s=60.0)
    offsets = np.asarray(schedule.offsets_ns) / 1e9
    assert np.sum(offsets < 5) == 50
    assert np.sum((offsets >= 5) & (offsets < 7)) == 0
    assert np.sum(offsets >= 7) == 200
    assert schedule.duration_s == 12.0
    assert schedule.peak_rps == 40.0


def test_equal_seeds_give_equal_schedules_and_others_do_not() -> None:
    assert _of(POISSON, seed=1) == _of(POISSON, seed=1)
    assert _of(POISSON, seed=1) != _of(POISSON, seed=2)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_the_parts_of_the_processes_are_the_whole_schedule(processes: int) -> None:
    n = len(_of(POISSON, requests=1000).offsets_ns)
    parts = [list(part_of(n, part, processes)) for part in range(processes)]
    assert sorted(seq for part in parts for seq in part) == list(range(1000))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_requests_and_duration_bound_a_flat_rate_whichever_is_first() -> None:
    by_count = _of(CONSTANT, requests=100)
    assert (len(by_count.offsets_ns), by_count.duration_s) == (100, 2.0)
    by_time = _of(CONSTANT, duration_s=1.0)
    assert (len(by_time.offsets_ns), by_time.duration_s) == (50, 1.0)
    assert len(_of(GammaLoad(kind="gamma", rate_rps=50.0, cv=3.0), requests=500).offsets_ns) == 500


def test_no_schedule_is_empty_or_endless() -> None:
    with pytest.raises(ScenarioError, match=r"not one request would be sent in 0.5 s at this rate; raise the rate"):
        _of(PoissonLoad(kind="poisson", rate_rps=0.001), duration_s=0.5)
    ramp = RampLoad(kind="ramp", from_rps=1e6, to_rps=1e6)
    with pytest.raises(ScenarioError, match="400,000,000 requests in one trial are more than the 5,000,000"):
        _of(ramp)


def test_a_probe_has_the_arrivals_and_the_bound_of_its_search() -> None:
    search = MaxRateLoad(kind="max_rate", low_rps=1.0, high_rps=9.0, arrivals="constant", max_in_flight=7)
    assert at_rate(search, 5.0) == ConstantLoad(kind="constant", rate_rps=5.0, max_in_flight=7)
