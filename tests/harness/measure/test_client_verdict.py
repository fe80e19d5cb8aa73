"""The verdict on the client: 1,000 starved clients and 1,000 healthy ones in front of the same simulated engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from harness.measure.doubts import client_verdict, doubts_of
from harness.records import RequestRecord
from tests.harness.measure.records import MS, request, use

RUNS, REQUESTS, GAP_MS = 1000, 500, 10.0

RECORDS = [request(k, k * GAP_MS, 0.0, user=k) for k in range(REQUESTS)]
"""Those of the run that was simulated last: to make 1,500,000 of them would be nearly all that the tests do."""

Starve = Callable[[np.random.Generator], float]


def _run(rng: np.random.Generator, client_ms: float, pause_ms: float) -> list[RequestRecord]:
    """100 requests/s to an engine of 20 ms (lognormal); the client needs `client_ms` of its one core for each send, and
    is held up for `pause_ms`, by garbage collection or a neighbour, once in a hundred sends."""
    latencies = rng.lognormal(3.0, 0.4, REQUESTS).tolist()
    costs = (rng.exponential(client_ms, REQUESTS) + pause_ms * (rng.random(REQUESTS) < 0.01)).tolist()
    free_ms = 0.0
    for k, (record, latency_ms, cost_ms) in enumerate(zip(RECORDS, latencies, costs, strict=True)):
        sent_ms = max(free_ms, k * GAP_MS)
        free_ms = sent_ms + cost_ms
        object.__setattr__(record, "sent_ns", int(sent_ms * MS))
        object.__setattr__(record, "done_ns", int((sent_ms + latency_ms) * MS))
    return RECORDS


def _alarms(client_ms: Starve, pause_ms: Starve) -> float:
    rng = np.random.default_rng(1)
    runs = (_run(rng, client_ms(rng), pause_ms(rng)) for _ in range(RUNS))
    return sum(client_verdict(run, use(), is_open_loop=True) is not None for run in runs) / RUNS


def test_a_healthy_client_is_not_accused_in_99_of_100_runs() -> None:
    assert _alarms(lambda rng: rng.uniform(0.05, 0.5), lambda rng: rng.uniform(0.0, 5.0)) <= 0.01


@pytest.mark.parametrize(
    ("client_ms", "pause_ms"),
    [((11.0, 30.0), (0.0, 5.0)), ((0.05, 0.5), (120.0, 400.0))],
    ids=["too slow for the rate", "held up again and again"],
)
def test_a_starved_client_is_found_in_99_of_100_runs(
    client_ms: tuple[float, float], pause_ms: tuple[float, float]
) -> None:
    assert _alarms(lambda rng: rng.uniform(*client_ms), lambda rng: rng.uniform(*pause_ms)) >= 0.99


def test_the_sentence_says_what_to_change() -> None:
    verdict = client_verdict(_run(np.random.default_rng(2), 15.0, 0.0), use(), is_open_loop=True)
    assert verdict is not None
    assert "late (99th percentile)" in verdict
    assert "workload.load.processes" in verdict


def test_a_client_starved_by_others_is_told_to_stop_them() -> None:
    verdict = client_verdict(_run(np.random.default_rng(2), 15.0, 0.0), use(other_s=16.0), is_open_loop=True)
    assert verdict is not None
    assert "other processes used 80% of this machine's CPU: stop them" in verdict


def test_a_late_closed_loop_is_doubted_and_not_void() -> None:
    late = _run(np.random.default_rng(2), 15.0, 0.0)
    assert client_verdict(late, use()) is None
    assert "late_sends" in [doubt.kind for doubt in doubts_of(late, use())]


def test_a_rate_that_did_not_leave_in_time_voids_even_a_slow_engine() -> None:
    """Two seconds of service hide any lag; the schedule was nevertheless stretched by 5 %."""
    records = [request(k, k * 10.0, 2000.0 + k / 2, sent_ns=int(k * 10.5 * MS), user=k) for k in range(500)]
    verdict = client_verdict(records, use(), is_open_loop=True)
    assert verdict is not None
    assert "95.2% of the asked rate" in verdict
    assert client_verdict(records, use(), is_open_loop=False) is None


def test_too_small_a_bound_on_outstanding_requests_is_the_clients_fault_and_an_overload_is_not() -> None:
    healthy = [request(k, k * 10.0, 20.0, user=k) for k in range(500)]
    verdict = client_verdict(healthy, use(), is_open_loop=True, max_in_flight=2, waited=100)
    assert verdict is not None
    assert "raise workload.load.max_in_flight" in verdict
    overloaded = [request(k, k * 10.0, 20.0 + 5.0 * k, sent_ns=int(k * 12 * MS), user=k) for k in range(500)]
    assert client_verdict(overloaded, use(), is_open_loop=True, max_in_flight=64, waited=300) is None


def test_a_window_of_milliseconds_that_ends_a_little_late_is_not_void() -> None:
    records = [request(n, n * 5.0, 8.0, sent_ns=int((n * 5.0 + 0.3 * n) * MS)) for n in range(2)]
    assert client_verdict(records, use(), is_open_loop=True) is None
