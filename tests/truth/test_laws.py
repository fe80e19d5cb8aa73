"""Laws go in, the same laws come out: every percentile within 2 % or 1 ms of the truth, by the real load processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.truth.rig import Law, Measured, even, measure, must_hold

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
FRAC, FLOOR_MS = 0.02, 1.0


def _bound(truth_ms: float, granted_ms: float) -> float:
    return max(FRAC * truth_ms, FLOOR_MS) + granted_ms


def _wrong(run: Measured, truth_ms: np.ndarray, granted_ms: float, metric: str = "latency_{}_ms") -> list[str]:  # type: ignore[type-arg]
    found = []
    for name, q in PERCENTILES.items():
        if metric.format(name) not in run.summary.metrics:
            continue
        seen, true = run.value(metric.format(name)), float(np.quantile(truth_ms, q))
        if abs(seen - true) > _bound(true, granted_ms):
            found.append(f"{metric.format(name)} {seen:.2f}, the truth is {true:.2f} ms")
    return found


def _delays(law: str, n: int) -> list[float]:
    rng = np.random.default_rng(1)
    if law == "constant":
        return [20.0] * n
    if law == "lognormal":
        return [float(value) for value in rng.lognormal(3.0, 0.6, n)]
    return [float(value) for value in np.where(rng.random(n) < 0.8, 10.0, 80.0)]


@pytest.mark.parametrize("law", ["constant", "lognormal", "bimodal"])
@pytest.mark.parametrize("loop", ["open", "closed"])
def test_every_percentile_of_the_law_comes_back(law: str, loop: str, tmp_path: Path) -> None:
    n = 400

    def check(folder: Path, granted_ms: float) -> tuple[list[str], Measured]:
        offsets = even(150.0, n) if loop == "open" else ()
        run = measure(Law(delays_ms=_delays(law, n)), folder, offsets_s=offsets, users=4)
        assert len(run.records) == n
        assert run.value("error_frac") == 0.0
        return _wrong(run, run.true_ms(), granted_ms), run

    must_hold(check, tmp_path)


def test_a_two_second_stall_under_100_requests_a_second_is_not_forgiven(tmp_path: Path) -> None:
    """Request k is due at k * 10 ms and takes 5 ms; whatever would be answered from second 2 to 4 is answered at second
    4. So 200 of 800 requests wait evenly between 2 s and 0, and every percentile follows on paper."""
    n, gap_ms, delay_ms = 800, 10.0, 5.0
    due_ms = np.arange(n) * gap_ms + delay_ms
    truth_ms = delay_ms + np.where((due_ms > 2000.0) & (due_ms < 4000.0), 4000.0 - due_ms, 0.0)

    def check(folder: Path, granted_ms: float) -> tuple[list[str], Measured]:
        law = Law(delays_ms=[delay_ms] * n, stall_s=(2.0, 4.0))
        run = measure(law, folder, offsets_s=even(100.0, n))
        found = _wrong(run, truth_ms, granted_ms)
        mean_ms = run.value("latency_mean_ms")
        if abs(mean_ms - truth_ms.mean()) > _bound(float(truth_ms.mean()), granted_ms):
            found.append(f"mean {mean_ms:.1f}, the truth is {truth_ms.mean():.1f} ms")
        return found, run

    must_hold(check, tmp_path)


def test_a_rate_beyond_capacity_is_named_and_measured(tmp_path: Path) -> None:
    """One worker of 12.5 ms under 120 requests/s: 80 leave per second, and request k waits k * (12.5 - 8.33) ms."""
    n, service_ms, gap_ms = 480, 12.5, 1000 / 120
    truth_ms = service_ms + np.arange(n) * (service_ms - gap_ms)

    def check(folder: Path, granted_ms: float) -> tuple[list[str], Measured]:
        run = measure(Law(delays_ms=[service_ms] * n, workers=1), folder, offsets_s=even(120.0, n))
        found = _wrong(run, truth_ms, granted_ms)
        if abs(run.value("throughput_rps") - 80.0) > 1.6:
            found.append(f"throughput {run.value('throughput_rps'):.1f}, the truth is 80 requests/s")
        assert "overload" in run.summary.distrust_kinds
        return found, run

    must_hold(check, tmp_path)


def test_rate_steps_are_delivered_step_by_step(tmp_path: Path) -> None:
    """One second each at 50, 200 and 50 requests/s; the server counts what came in each."""
    offsets = [k / 50 for k in range(50)] + [1 + k / 200 for k in range(200)] + [2 + k / 50 for k in range(50)]

    def check(folder: Path, granted_ms: float) -> tuple[list[str], Measured]:
        run = measure(Law(delays_ms=[10.0] * 300), folder, offsets_s=offsets)
        came_s = np.sort(run.log[8:, 0] - run.result.begin_ns) / 1e9
        counts = [int(((came_s >= second) & (came_s < second + 1)).sum()) for second in range(3)]
        slack = 2 + int(granted_ms / 5)
        wrong = [abs(count - want) > slack for count, want in zip(counts, (50, 200, 50), strict=True)]
        found = [f"{counts} requests came in the three steps"] if any(wrong) else []
        assert "drift" not in run.summary.distrust_kinds
        return found + _wrong(run, run.true_ms(), granted_ms), run

    must_hold(check, tmp_path)


def test_a_burst_of_errors_is_counted_and_is_neither_latency_nor_goodput(tmp_path: Path) -> None:
    """50 of 400 requests get 503 at once: an eighth are errors, and no percentile is better for it."""
    statuses = [503 if 100 <= k < 150 else 200 for k in range(400)]
    delays = [0.1 if status == 503 else 30.0 for status in statuses]

    def check(folder: Path, granted_ms: float) -> tuple[list[str], Measured]:
        law = Law(delays_ms=delays, statuses=statuses)
        run = measure(law, folder, offsets_s=even(200.0, 400), slo={"latency_ms": 60.0 + granted_ms})
        assert run.value("error_frac") == 0.125
        assert run.value("goodput_frac") <= 0.875
        good = run.value("goodput_frac")
        found = [f"goodput {good}, the truth is 0.875"] if good < 0.875 else []
        return found + _wrong(run, np.full(350, 30.0), granted_ms), run

    must_hold(check, tmp_path)


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_slow_first_token_and_the_cadence_come_back(chunk: int, tmp_path: Path) -> None:
    """The first token after 60 ms, 32 tokens of 4 ms each, one or four at a time."""

    def check(folder: Path, granted_ms: float) -> tuple[list[str], Measured]:
        law = Law(delays_ms=[60.0] * 160, tokens=32, each_ms=4.0, chunk=chunk)
        run = measure(law, folder, offsets_s=even(60.0, 160))
        found = _wrong(run, run.true_ms(1), granted_ms, "ttft_{}_ms")
        for name, true_ms in (("itl_p50_ms", 4.0 * chunk), ("tpot_p50_ms", 4.0)):
            if abs(run.value(name) - true_ms) > FRAC * true_ms + granted_ms:
                found.append(f"{name} {run.value(name):.3f}, the truth is {true_ms} ms")
        return found, run

    must_hold(check, tmp_path)


def test_500_requests_a_second_are_delivered_on_time(tmp_path: Path) -> None:
    def check(folder: Path, granted_ms: float) -> tuple[list[str], Measured]:
        run = measure(Law(delays_ms=[5.0] * 2000), folder, offsets_s=even(500.0, 2000))
        delivered, lag_ms = run.value("rate_delivered_rps"), run.value("lag_p99_ms")
        came = np.sort(run.log[8:, 0])
        seen = (len(came) - 1) / ((came[-1] - came[0]) / 1e9)
        found = [f"lag p99 {lag_ms:.2f} ms"] if lag_ms > 2.0 + granted_ms else []
        found += [f"{each:.1f} requests/s" for each in (delivered, seen) if abs(each / 500 - 1) > 0.01]
        return found, run

    must_hold(check, tmp_path)
