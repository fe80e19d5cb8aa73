"""Open-loop facts, token times and goodput of synthetic records whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.measure.metrics import METRICS
from harness.measure.summarize import summarize
from harness.measure.tokens import tpot_ns
from harness.records import Metric, RequestRecord
from tests.harness.measure.records import MS, request, use


def _scheduled(n: int, gap_ms: float, latency_ms: float, lag_ms: float = 0.0) -> tuple[RequestRecord, ...]:
    """Every `gap_ms` a request that leaves `lag_ms` late and is answered `latency_ms` after its time."""
    return tuple(
        request(k, k * gap_ms, latency_ms, sent_ns=int((k * gap_ms + lag_ms) * MS), user=k % 7) for k in range(n)
    )


def _open(records: tuple[RequestRecord, ...], asked_rps: float = 100.0, **options: object) -> dict[str, Metric]:
    end_ns = max(record.done_ns for record in records)
    summary = summarize(records, 0, end_ns, use(), load_s=1.0, asked_rps=asked_rps, is_open_loop=True, **options)  # type: ignore[arg-type]
    assert set(summary.metrics) <= set(METRICS)
    return dict(summary.metrics)


def test_a_punctual_client_delivers_what_was_asked() -> None:
    metrics = _open(_scheduled(500, 10.0, 5.0))
    assert metrics["rate_asked_rps"].value == 100.0
    assert metrics["rate_delivered_rps"].value == pytest.approx(100.0, rel=1e-9)
    assert metrics["lag_p99_ms"].value == 0.0
    assert metrics["throughput_rps"].value == pytest.approx(100.0, rel=0.003)


def test_a_client_that_falls_behind_delivers_less_and_lags_more() -> None:
    records = tuple(request(k, k * 10.0, k * 2.0 + 5.0, sent_ns=int(k * 12.0 * MS)) for k in range(500))
    metrics = _open(records)
    assert metrics["rate_delivered_rps"].value == pytest.approx(500 / 5.998, rel=0.001)
    assert metrics["lag_p50_ms"].value == pytest.approx(499.0, rel=0.01)
    assert metrics["latency_p50_ms"].value == pytest.approx(504.0, rel=0.01), "latency counts from the schedule"


def test_requests_that_never_left_are_not_delivered() -> None:
    records = _scheduled(100, 10.0, 5.0)
    unsent = tuple(request(100 + k, 1000.0 + k * 10.0, 3000.0, user=-1, outcome="timed_out") for k in range(100))
    metrics = _open((*records, *unsent))
    assert metrics["rate_delivered_rps"].value == pytest.approx(50.0, rel=0.01)
    assert metrics["error_frac"].value == 0.5


def test_a_closed_loop_has_no_schedule_to_be_late_for() -> None:
    records = _scheduled(100, 10.0, 5.0)
    assert not {"rate_asked_rps", "lag_p99_ms"} & set(summarize(records, 0, 1000 * MS, use(), load_s=1.0).metrics)


def test_connection_set_up_is_reported_where_connections_were_opened() -> None:
    records = tuple(request(k, k * 10.0, 5.0, connect_ns=2 * MS if k < 10 else None) for k in range(50))
    metric = _open(records)["connect_p99_ms"]
    assert (metric.value, metric.n) == (pytest.approx(2.0), 10)
    assert "connect_p99_ms" not in _open(_scheduled(50, 10.0, 5.0))


def _stream(k: int, first_ms: float, gaps_ms: list[float], tokens: int) -> RequestRecord:
    times = [k * 100.0 + first_ms]
    for gap_ms in gaps_ms:
        times.append(times[-1] + gap_ms)
    token_ns = tuple(int(at * MS) for at in times)
    return request(
        k, k * 100.0, times[-1] - k * 100.0, token_ns=token_ns, first_token_ns=token_ns[0], output_tokens=tokens
    )


def test_token_times_come_back() -> None:
    records = tuple(_stream(k, 30.0, [10.0] * 8 + [50.0], 10) for k in range(40))
    metrics = _open(records, 10.0)
    assert metrics["ttft_p90_ms"].value == pytest.approx(30.0)
    assert metrics["itl_p50_ms"].value == pytest.approx(10.0)
    assert metrics["itl_p99_ms"].value == pytest.approx(50.0)
    assert metrics["itl_p50_ms"].n == 360
    assert metrics["tpot_p50_ms"].value == pytest.approx(130.0 / 9)
    assert metrics["itl_mean_ms"].value == pytest.approx(130.0 / 9)
    assert metrics["itl_p95_ms"].value == pytest.approx(50.0)
    for name in ("ttft_mean_ms", "ttft_p95_ms"):
        assert metrics[name].value == pytest.approx(30.0)
    for name in ("tpot_mean_ms", "tpot_p95_ms"):
        assert metrics[name].value == pytest.approx(130.0 / 9)


def test_token_rates_of_the_server_and_of_one_user() -> None:
    """One request every 20 ms, answered in 40 ms: 30 tokens in, 10 out."""
    metrics = _open(tuple(request(k, k * 20.0, 40.0, input_tokens=30, output_tokens=10) for k in range(200)))
    assert metrics["output_tokens_per_s"].value == pytest.approx(500.0, rel=0.02)
    assert metrics["input_tokens_per_s"].value == pytest.approx(1500.0, rel=0.02)
    assert metrics["total_tokens_per_s"].value == pytest.approx(2000.0, rel=0.02)
    assert metrics["output_tokens_per_s_per_user"].value == pytest.approx(250.0)
    uncounted = _open(tuple(request(k, k * 20.0, 40.0, input_tokens=None, output_tokens=None) for k in range(200)))
    assert not [name for name in uncounted if "tokens_per_s" in name]
    half = _open(tuple(request(k, k * 20.0, 40.0, input_tokens=None) for k in range(200)))
    assert sorted(name for name in half if "tokens_per_s" in name) == [
        "output_tokens_per_s",
        "output_tokens_per_s_per_user",
    ]


@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
def test_time_per_token_is_right_when_tokens_come_in_chunks(chunk: int) -> None:
    """64 tokens, 5 ms each, sent `chunk` at a time."""
    record = _stream(0, 30.0, [5.0 * chunk] * (64 // chunk - 1), 64)
    assert tpot_ns(record) == pytest.approx(5.0 * MS, rel=1e-6)
    note = _open((record, _stream(1, 30.0, [5.0 * chunk] * (64 // chunk - 1), 64)), 10.0)["itl_p50_ms"].note
    assert ("chunks" in note) == (chunk > 1)


def test_tokens_with_the_same_time_are_one_arrival() -> None:
    """Chunks of 4, 2 and 2 tokens, each token with the time of its chunk: 4 tokens in 20 ms after the first arrival."""
    times = [int(at * MS) for at in (30.0, 30.0, 30.0, 30.0, 40.0, 40.0, 50.0, 50.0)]
    record = request(0, 0.0, 50.0, token_ns=tuple(times), first_token_ns=times[0], output_tokens=8)
    assert tpot_ns(record) == pytest.approx(5.0 * MS)
    metrics = _open((record, request(1, 100.0, 5.0)), 10.0)
    assert metrics["itl_p50_ms"].value == pytest.approx(10.0)
    assert "chunks of 2.7" in metrics["itl_p50_ms"].note


@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
def test_an_end_token_that_is_counted_and_never_sent_is_no_token_of_the_time_per_token(chunk: int) -> None:
    record = _stream(0, 30.0, [5.0 * chunk] * (64 // chunk - 1), 65)
    assert tpot_ns(record) == pytest.approx(5.0 * MS, rel=1e-6)


def test_hidden_reasoning_is_no_token_of_the_time_per_token() -> None:
    record = replace(_stream(0, 30.0, [10.0] * 9, 510), hidden_tokens=500)
    assert tpot_ns(record) == pytest.approx(10.0 * MS)
    assert _open((record, record), 10.0)["itl_p50_ms"].note == ""


def test_the_first_token_that_is_not_reasoning_has_metrics_of_its_own() -> None:
    thinking = tuple(
        replace(one, first_output_ns=one.token_ns[6]) for one in (_stream(k, 30.0, [10.0] * 9, 10) for k in range(20))
    )
    metrics = _open(thinking, 10.0)
    assert metrics["ttft_p50_ms"].value == pytest.approx(30.0)
    assert metrics["ttfo_p50_ms"].value == pytest.approx(90.0)
    metrics = _open((*thinking, _stream(20, 30.0, [10.0] * 9, 10)), 10.0)
    assert metrics["ttfo_p50_ms"].n == 20
    assert "1 answers held nothing but reasoning" in metrics["ttfo_p50_ms"].note


def test_an_answer_shorter_than_asked_is_not_in_goodput() -> None:
    records = tuple(request(k, k * 10.0, 5.0, asked_tokens=10, output_tokens=10 - k % 2) for k in range(100))
    assert _open(records, slo={"latency_ms": 20.0})["goodput_frac"].value == pytest.approx(0.5)
    by_tokenizer = tuple(replace(record, counted_by="tokenizer") for record in records)
    assert _open(by_tokenizer, slo={"latency_ms": 20.0})["goodput_frac"].value == 1.0
    uncounted = tuple(replace(record, output_tokens=None) for record in records)
    assert _open(uncounted, slo={"latency_ms": 20.0})["goodput_frac"].value == 1.0


def test_counts_of_a_tokenizer_are_named() -> None:
    records = tuple(request(k, k * 10.0, 5.0, counted_by="tokenizer" if k < 30 else "server") for k in range(100))
    assert "30 of 100 answers counted by the served model's tokenizer" in _open(records)["output_tokens_per_s"].note
    assert _open(_scheduled(100, 10.0, 5.0))["output_tokens_per_s"].note == ""


def test_goodput_counts_errors_against_it() -> None:
    fast = [request(k, k * 10.0, 5.0) for k in range(0, 200, 2)]
    slow = [request(k, k * 10.0, 50.0) for k in range(1, 200, 4)]
    failed = [request(k, k * 10.0, 1.0, outcome="server_error", status_code=500) for k in range(3, 200, 4)]
    metrics = _open(tuple(sorted([*fast, *slow, *failed], key=lambda r: r.seq)), slo={"latency_ms": 20.0})
    assert metrics["goodput_frac"].value == pytest.approx(0.5)
    assert metrics["goodput_frac"].n == 200
    assert metrics["goodput_rps"].value == pytest.approx(50.0, rel=0.02)
    assert "latency_ms <= 20" in metrics["goodput_frac"].estimator


@pytest.mark.parametrize(
    ("slo", "is_met"),
    [
        ({"ttft_ms": 31.0}, True),
        ({"ttft_ms": 29.0}, False),
        ({"tpot_ms": 15.0}, True),
        ({"tpot_ms": 14.0}, False),
        ({"itl_ms": 51.0}, True),
        ({"itl_ms": 49.0}, False),
        ({"latency_ms": 500.0, "ttft_ms": 31.0, "tpot_ms": 15.0, "itl_ms": 51.0}, True),
    ],
)
def test_every_threshold_of_the_slo_is_a_threshold(slo: dict[str, float], is_met: bool) -> None:
    records = tuple(_stream(k, 30.0, [10.0] * 8 + [50.0], 10) for k in range(20))
    assert _open(records, 10.0, slo=slo)["goodput_frac"].value == float(is_met)


def test_no_answer_inside_the_slo_is_a_goodput_of_zero() -> None:
    metrics = _open(_scheduled(50, 10.0, 30.0), slo={"latency_ms": 20.0})
    assert metrics["goodput_rps"].value == 0.0
    assert metrics["goodput_frac"].value == 0.0
    assert metrics["goodput_frac"].high == pytest.approx(0.071, abs=0.002)


def test_energy_is_divided_by_what_it_bought_and_absent_where_unreadable() -> None:
    records = _scheduled(100, 10.0, 5.0)
    with_energy = use(energy_j=50.0, energy_of="CPU packages", gpu_power_w=70.0)
    metrics = summarize(records, 0, 1000 * MS, with_energy, load_s=1.0).metrics
    assert metrics["energy_j_per_request"].value == pytest.approx(0.5)
    assert metrics["energy_j_per_output_token"].value == pytest.approx(0.05)
    assert metrics["gpu_power_w"].value == 70.0
    assert "CPU packages" in metrics["energy_j"].estimator
    assert not [name for name in summarize(records, 0, 1000 * MS, use(), load_s=1.0).metrics if "energy" in name]
