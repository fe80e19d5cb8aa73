"""Steady states, drifts, warm-ups and overload: each simulated 1,000 times, told apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from harness.measure.doubts import doubts_of
from harness.measure.overload import overload
from harness.measure.statistics.steady_state import unsteadiness
from harness.records import RequestRecord
from tests.harness.measure.records import MS, request, use

RUNS = 1000


def _kinds(runs: npt.NDArray[np.float64]) -> list[str]:
    found = (unsteadiness(run) for run in runs)  # type: ignore[arg-type]
    return ["" if each is None else each.kind for each in found]


def test_a_steady_state_is_seldom_doubted() -> None:
    kinds = _kinds(np.random.default_rng(1).lognormal(3.0, 0.5, (RUNS, 480)))
    assert sum(kind != "" for kind in kinds) <= 0.02 * RUNS


def test_batches_of_eight_are_no_drift() -> None:
    kinds = _kinds(np.repeat(np.random.default_rng(2).lognormal(3.0, 0.3, (RUNS, 120)), 8, axis=1))
    assert sum(kind != "" for kind in kinds) <= 0.02 * RUNS


@pytest.mark.parametrize("shape", ["trend", "step"])
def test_a_drift_of_a_fifth_is_found(shape: str) -> None:
    rng = np.random.default_rng(3)
    course = np.linspace(1.0, 1.5, 600) if shape == "trend" else np.where(np.arange(600) < 300, 1.0, 1.2)
    kinds = _kinds(rng.lognormal(3.0, 0.2, (RUNS, 600)) * course)
    assert sum(kind == "drift" for kind in kinds) >= 0.95 * RUNS


def test_a_warm_up_that_was_too_short_is_found() -> None:
    rng = np.random.default_rng(4)
    course = np.where(np.arange(600) < 50, 2.0, 1.0)
    kinds = _kinds(rng.lognormal(3.0, 0.2, (RUNS, 600)) * course)
    assert sum(kind == "warmup" for kind in kinds) >= 0.95 * RUNS


def test_too_few_samples_tell_nothing_and_the_summary_says_so() -> None:
    assert unsteadiness(np.linspace(1.0, 2.0, 119)) is None  # type: ignore[arg-type]
    records = tuple(request(k, k * 20.0, 20.0) for k in range(100))
    assert "120 are needed to distinguish a steady state from a drift" in doubts_of(records, use())[0].sentence


def _queue(rng: np.random.Generator, n: int, rate_rps: float, capacity_rps: float) -> list[RequestRecord]:
    """One server, Poisson arrivals, exponential service; every request leaves on time."""
    arrivals = np.cumsum(rng.exponential(1e3 / rate_rps, n)).tolist()
    service = rng.exponential(1e3 / capacity_rps, n).tolist()
    free_ms, records = 0.0, []
    for k, (arrival_ms, service_ms) in enumerate(zip(arrivals, service, strict=True)):
        free_ms = max(free_ms, arrival_ms) + service_ms
        records.append(request(k, arrival_ms, free_ms - arrival_ms, user=k))
    return records


def test_overload_is_named_and_a_busy_but_stable_queue_is_not() -> None:
    rng = np.random.default_rng(5)
    stable = [bool(overload(_queue(rng, 1000, 80.0, 100.0))) for _ in range(200)]
    beyond = [bool(overload(_queue(rng, 1000, 130.0, 100.0))) for _ in range(100)]
    assert sum(stable) <= 2
    assert sum(beyond) >= 95


def test_overload_says_what_to_do() -> None:
    records = _queue(np.random.default_rng(6), 1000, 150.0, 100.0)
    (doubt,) = [each for each in doubts_of(records, use(), is_open_loop=True) if each.kind == "overload"]
    assert "outstanding requests grew from" in doubt.sentence
    assert "lower the rate" in doubt.sentence


def test_a_stall_that_ended_is_no_overload() -> None:
    """100 requests/s, nothing answered for two seconds in the middle, then all at once."""
    records = [
        request(k, k * 10.0, 5.0 + (max(0.0, 6000.0 - k * 10.0) if 4000 <= k * 10 < 6000 else 0.0), user=k)
        for k in range(1000)
    ]
    assert overload(records) == ""


def test_a_ramp_is_no_drift() -> None:
    """Latency follows a rate that rises by design; the same latencies at an even rate are a drift."""
    times_ms = 1e4 * np.sqrt(np.arange(400) / 400)
    latencies = np.linspace(20.0, 40.0, 400)
    ramp = [request(k, float(times_ms[k]), float(latencies[k]), user=k) for k in range(400)]
    even = [request(k, k * 25.0, float(latencies[k]), user=k) for k in range(400)]
    assert "drift" not in [each.kind for each in doubts_of(ramp, use(), is_open_loop=True)]
    assert "drift" in [each.kind for each in doubts_of(even, use(), is_open_loop=True)]


def test_one_long_pause_of_the_client_is_told_though_p99_hides_it() -> None:
    records = [
        request(k, k * 10.0, 5.0 + (300.0 if k == 500 else 0.0), sent_ns=int((k * 10 + (300 if k == 500 else 0)) * MS))
        for k in range(1000)
    ]
    (doubt,) = doubts_of(records, use(), is_open_loop=True)
    assert doubt.kind == "client_pause"
    assert "300 ms, 5.0 s into the window" in doubt.sentence
