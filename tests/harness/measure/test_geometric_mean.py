"""The geometric mean of several figures: its value, its unit, and how often its interval holds the truth."""

from __future__ import annotations

import math
import random

import pytest

from harness.measure.geometric_mean import NAME, Figure, geometric_mean, with_geometric_mean
from harness.records import Metric, TrialSummary

Z = 1.96


def metric(value: float, unit: str = "requests/s", low: float | None = None, high: float | None = None) -> Metric:
    return Metric(value=value, unit=unit, estimator="e", n=100, low=low, high=high)


def figures(*names: str, minimized: tuple[str, ...] = ()) -> list[Figure]:
    return [Figure(metric=name, is_minimized=name in minimized) for name in names]


def test_rates_of_three_loads_give_a_rate() -> None:
    names = figures("throughput_rps@load=a", "throughput_rps@load=b", "throughput_rps@load=c")
    mean = geometric_mean(names, [metric(2), metric(4), metric(8)])
    assert mean.value == pytest.approx(4)
    assert mean.unit == "requests/s"
    assert mean.note == "of throughput_rps@load=a 2, throughput_rps@load=b 4, throughput_rps@load=c 8"


def test_what_is_minimized_counts_as_its_inverse() -> None:
    """InferenceBench's scenario D: the geometric mean of 1/TTFT, 1/TPOT and requests per second."""
    names = figures("ttft_mean_ms", "tpot_mean_ms", "throughput_rps", minimized=("ttft_mean_ms", "tpot_mean_ms"))
    mean = geometric_mean(names, [metric(50, "ms"), metric(10, "ms"), metric(4)])
    assert mean.value == pytest.approx((1 / 50 * 1 / 10 * 4) ** (1 / 3))
    assert mean.unit == "1"
    waits = figures("ttft_mean_ms", "tpot_mean_ms", minimized=("ttft_mean_ms", "tpot_mean_ms"))
    assert geometric_mean(waits, [metric(50, "ms"), metric(10, "ms")]).unit == "1/ms"


def test_distances_of_one_window_are_added_and_those_of_several_windows_by_squares() -> None:
    parts = [metric(10, low=8, high=12.5), metric(10, low=8, high=12.5)]  # 10/8 = 12.5/10
    one = geometric_mean(figures("throughput_rps", "output_tokens_per_s"), parts)
    assert (one.low, one.high) == (pytest.approx(8), pytest.approx(12.5))
    two = geometric_mean(figures("throughput_rps@users=1", "throughput_rps@users=4"), parts)
    assert two.high == pytest.approx(10 * 1.25 ** (1 / math.sqrt(2)))
    assert two.low == pytest.approx(10 / 1.25 ** (1 / math.sqrt(2)))
    assert two.method == "mover"


def test_a_limit_that_a_figure_lacks_the_mean_lacks_too() -> None:
    names = figures("throughput_rps", "ttft_p99_ms", minimized=("ttft_p99_ms",))
    mean = geometric_mean(names, [metric(10, low=8, high=12), metric(5, "ms", low=4, high=None)])
    assert mean.low is None  # the wait has no upper limit, so its 1/value has no lower one
    assert mean.high == pytest.approx(math.sqrt(12 / 4))


def test_nothing_answered_at_one_load_is_a_mean_of_zero_without_an_interval() -> None:
    mean = geometric_mean(figures("goodput_rps@load=a", "goodput_rps@load=b"), [metric(0, low=0, high=1), metric(5)])
    assert (mean.value, mean.low, mean.high, mean.method) == (0.0, None, None, "none")


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"throughput_rps": metric(3)}, "ttft_mean_ms was not measured"),
        ({"throughput_rps": metric(3), "ttft_mean_ms": metric(0, "ms")}, "ttft_mean_ms is 0, which has no 1/value"),
    ],
)
def test_a_mean_that_cannot_be_is_unavailable_with_the_reason(metrics: dict[str, Metric], why: str) -> None:
    names = figures("throughput_rps", "ttft_mean_ms", minimized=("ttft_mean_ms",))
    summary = with_geometric_mean(TrialSummary(metrics=metrics), names)
    assert NAME not in summary.metrics
    assert summary.unavailable[NAME] == why


@pytest.mark.parametrize("is_one_window", [False, True])
def test_the_interval_holds_the_truth_in_about_95_of_100_or_more(is_one_window: bool) -> None:
    """Three figures whose logarithms are normal: independent ones of three windows, or of one window and all alike,
    which is the worst that can be of one window. 2,000 draws have a standard error of 0.5 % at 95 %."""
    rng = random.Random(5)
    names = figures(*(f"throughput_rps{'' if is_one_window else f'@users={n}'}" for n in (1, 2, 4)))
    spreads, held = (0.02, 0.1, 0.3), 0
    for _ in range(2_000):
        shared = rng.gauss(0, 1)
        logs = [math.log(10) + s * (shared if is_one_window else rng.gauss(0, 1)) for s in spreads]
        parts = [
            metric(math.exp(x), low=math.exp(x - Z * s), high=math.exp(x + Z * s))
            for x, s in zip(logs, spreads, strict=True)
        ]
        mean = geometric_mean(names, parts)
        assert mean.low is not None
        assert mean.high is not None
        held += mean.low <= 10 <= mean.high
    assert 0.935 <= held / 2_000 <= 0.965
