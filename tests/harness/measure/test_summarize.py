"""Summaries of synthetic records whose truth is known."""

from __future__ import annotations

import pytest

from harness.measure.metrics import METRICS
from harness.measure.summarize import summarize
from tests.harness.measure.records import MS, closed_loop, request, use


def test_a_constant_closed_loop_is_recovered_exactly() -> None:
    records = closed_loop(users=8, rounds=50, latency_ms=20.0)
    metrics = summarize(records, 0, 1000 * MS, use(window_s=1.0), load_s=3.0).metrics
    assert metrics["latency_p50_ms"].value == 20.0
    assert metrics["latency_p99_ms"].value == 20.0
    assert metrics["throughput_rps"].value == pytest.approx(400.0)
    assert metrics["output_tokens_per_s"].value == pytest.approx(4000.0)
    assert metrics["error_frac"].value == 0.0
    assert metrics["load_s"].value == 3.0
    assert metrics["peak_memory_mib"].value == 300.0
    assert set(metrics) <= set(METRICS)


def test_warm_up_is_never_measured() -> None:
    slow = [request(-100 + n, n, 5000.0, is_warmup=True) for n in range(50)]
    records = (*slow, *closed_loop(users=2, rounds=100, latency_ms=10.0))
    metrics = summarize(records, 0, 1000 * MS, use(), load_s=1.0).metrics
    assert metrics["latency_max_ms"].value == 10.0
    assert metrics["latency_p50_ms"].n == 200


def test_the_tail_in_which_users_run_dry_does_not_lower_throughput() -> None:
    steady = list(closed_loop(users=4, rounds=100, latency_ms=10.0))
    steady[-1] = request(399, 990.0, 500.0, user=3)
    metrics = summarize(steady, 0, 1490 * MS, use(), load_s=1.0).metrics
    assert metrics["throughput_rps"].value == pytest.approx(400.0, rel=0.01)


def test_throughput_with_one_request_per_user_says_that_the_tail_is_in_it() -> None:
    records = [request(n, 0.0, 100.0, user=n) for n in range(10)]
    metric = summarize(records, 0, 100 * MS, use(), load_s=1.0).metrics["throughput_rps"]
    assert metric.value == pytest.approx(100.0)
    assert "tail" in metric.note


def test_a_stalled_server_is_not_forgiven() -> None:
    """100 requests/s for 10 s at 5 ms; nothing is answered from second 4 to 6. Open loop: the 200 requests whose turn
    came in the stall waited 2 s down to 0, so p90 is 5 ms + the wait that 10 % of all exceed: 1 s. A generator that
    starts its clock at the actual send, after the stall, would see 5 ms everywhere."""
    records = []
    for n in range(1000):
        intended_ms = n * 10.0
        wait_ms = max(0.0, 6000.0 - intended_ms) if 4000.0 <= intended_ms < 6000.0 else 0.0
        sent_ns = int((intended_ms + wait_ms) * MS)
        records.append(request(n, intended_ms, wait_ms + 5.0, sent_ns=sent_ns, user=n % 50))
    metrics = summarize(records, 0, 10_000 * MS, use(), load_s=1.0).metrics
    assert metrics["latency_p50_ms"].value == pytest.approx(5.0)
    assert metrics["latency_p90_ms"].value == pytest.approx(1005.0, rel=0.02)
    assert metrics["latency_p99_ms"].value == pytest.approx(1905.0, rel=0.02)
    assert metrics["latency_mean_ms"].value == pytest.approx(5.0 + 0.2 * 1005.0, rel=0.02)


def test_timed_out_requests_count_with_the_time_they_waited() -> None:
    records = [*closed_loop(users=1, rounds=9, latency_ms=10.0), request(9, 90.0, 1000.0, outcome="timed_out")]
    metrics = summarize(records, 0, 1090 * MS, use(), load_s=1.0).metrics
    assert metrics["latency_max_ms"].value == 1000.0
    assert "1 timed out" in metrics["latency_p50_ms"].note
    assert metrics["error_frac"].value == pytest.approx(0.1)


def test_refused_requests_are_errors_and_neither_latency_nor_throughput() -> None:
    good = [request(n, n * 10.0, 10.0) for n in range(100)]
    refused = [request(100 + n, n * 10.0, 0.1, outcome="rejected", status_code=503, user=1) for n in range(100)]
    metrics = summarize([*good, *refused], 0, 1000 * MS, use(), load_s=1.0).metrics
    assert metrics["latency_p50_ms"].value == 10.0
    assert metrics["error_frac"].value == 0.5
    assert metrics["throughput_rps"].value == pytest.approx(100.0, rel=0.02)


def test_nothing_answered_leaves_no_latency_but_an_error_share() -> None:
    records = [request(n, n, 1.0, outcome="connection_failed", status_code=0) for n in range(20)]
    metrics = summarize(records, 0, 20 * MS, use(), load_s=1.0).metrics
    assert "latency_p50_ms" not in metrics
    assert "throughput_rps" not in metrics
    assert metrics["error_frac"].value == 1.0


def test_time_to_first_token_is_there_only_when_streaming() -> None:
    plain = closed_loop(users=1, rounds=20, latency_ms=10.0)
    streamed = [request(n, n * 10.0, 10.0, first_token_ns=int((n * 10.0 + 4.0) * MS)) for n in range(20)]
    assert "ttft_p50_ms" not in summarize(plain, 0, 200 * MS, use(), load_s=1.0).metrics
    assert summarize(streamed, 0, 200 * MS, use(), load_s=1.0).metrics["ttft_p50_ms"].value == pytest.approx(4.0)


def test_an_engine_elsewhere_has_no_memory_and_no_cpu_share() -> None:
    metrics = summarize(
        closed_loop(2, 20, 5.0), 0, 100 * MS, use(engine_s=None, peak_memory_bytes=None), load_s=0.0
    ).metrics
    assert "peak_memory_mib" not in metrics
    assert "cpu_frac_engine" not in metrics


def test_an_open_loop_of_few_requests_counts_gaps_and_not_posts() -> None:
    records = [request(n, n * 250.0, 10.0) for n in range(5)]
    metrics = summarize(records, 0, 1010 * MS, use(), load_s=1.0, asked_rps=4.0, is_open_loop=True).metrics
    assert metrics["throughput_rps"].value == pytest.approx(4.0)
    assert "the time after it is included" in metrics["throughput_rps"].note


def test_one_answer_of_an_open_loop_is_no_rate() -> None:
    metrics = summarize([request(0, 0.0, 8.0)], 0, 8 * MS, use(), load_s=1.0, asked_rps=0.1, is_open_loop=True).metrics
    assert "throughput_rps" not in metrics, "one over its latency would be 125 requests/s"
    assert metrics["latency_p50_ms"].is_unproven
    assert not metrics["latency_max_ms"].is_unproven
