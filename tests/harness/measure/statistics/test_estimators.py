"""Estimators against known truth: exact small cases, seeded simulations of coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.measure.statistics import estimators as stats
from harness.measure.statistics.estimators import (
    interval_ranks,
    mean,
    percentile,
    rate,
    smallest_n,
)

MS = 1_000_000


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688)])
def test_smallest_n_is_where_both_ends_first_exist(q: float, n: int) -> None:
    assert smallest_n(q) == n
    assert None not in interval_ranks(n, q)
    assert None in interval_ranks(n - 1, q)


@pytest.mark.parametrize(("n", "q"), [(20, 0.5), (200, 0.9), (500, 0.99), (5000, 0.5), (100_000, 0.99)])
def test_interval_ranks_cover_95_percent_and_no_narrower_tail_would(n: int, q: float) -> None:
    low, high = interval_ranks(n, q)
    assert low is not None
    assert high is not None
    assert _below(n, q, low - 1) <= 0.025 < _below(n, q, low)
    assert _below(n, q, high - 1) >= 0.975 > _below(n, q, high - 2)


def _below(n: int, q: float, k: int) -> float:
    """P(Bin(n, q) <= k), by summing exact terms near the mean."""
    terms = (
        math.exp(
            math.lgamma(n + 1)
            - math.lgamma(i + 1)
            - math.lgamma(n - i + 1)
            + i * math.log(q)
            + (n - i) * math.log1p(-q)
        )
        for i in range(max(0, int(n * q - 40 * math.sqrt(n * q * (1 - q)) - 5)), k + 1)
    )
    return math.fsum(terms)


def test_percentile_is_type_7_of_the_raw_samples() -> None:
    metric = percentile([MS * value for value in (10, 20, 30, 40)], 0.5)
    assert metric.value == pytest.approx(25.0)
    assert (metric.unit, metric.n) == ("ms", 4)
    assert "type 7" in metric.estimator


def test_p99_has_no_upper_bound_below_368_samples_and_says_so() -> None:
    samples = [MS * (1 + value * 100 % 367) for value in range(367)]  # a permutation: time order carries no trend
    metric = percentile(samples, 0.99)
    assert metric.high is None
    assert metric.low is not None
    assert "367 samples, 368 needed" in metric.note
    assert percentile([*samples, MS * 368], 0.99).high is not None


def test_mean_is_seeded_and_gives_no_interval_from_a_handful() -> None:
    samples = [MS * value for value in range(1, 30)]
    assert mean(samples) == mean(samples)
    few = mean(samples[:9])
    assert (few.low, few.high) == (None, None)
    assert few.note


def test_the_bootstrap_draws_the_same_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(1).lognormal(size=601)
    whole = stats.bootstrap_means(samples, 1, seed=4)
    kept = stats.bootstrap_means(samples[:500], 1, seed=4)
    monkeypatch.setattr(stats, "BOOTSTRAP_CELLS", 70_001)  # 116 resamples of 601 blocks, the last piece is shorter
    monkeypatch.setattr(stats, "KEPT_BLOCKS", 0)
    assert np.array_equal(stats.bootstrap_means(samples, 1, seed=4), whole)
    assert np.array_equal(stats.bootstrap_means(samples[:500], 1, seed=4), kept)
    assert len(whole) == stats.BOOTSTRAP_ROUNDS


def test_a_mean_of_a_million_samples_has_the_interval_of_the_central_limit() -> None:
    samples = np.random.default_rng(2).lognormal(size=1_000_000)
    metric = mean(samples, scale=1.0)  # type: ignore[arg-type]
    assert metric.low is not None
    assert metric.high is not None
    assert metric.high - metric.low == pytest.approx(2 * stats.Z_95 * samples.std() / 1000, rel=0.1)


def test_rate_of_waves_is_exact_and_its_interval_holds_them_together() -> None:
    waves = [20 * MS * (wave + 1) for wave in range(50) for _ in range(8)]
    metric = rate(waves, [1.0] * 400, (0, 1000 * MS), unit="requests/s", block=8)
    assert metric.value == pytest.approx(400.0)
    assert metric.low is not None
    assert metric.high is not None
    assert metric.low <= 400.0 <= metric.high
    assert (metric.high - metric.low) < 30


def test_the_interval_of_an_even_rate_lies_on_both_sides_of_it() -> None:
    done = [20 * MS * (k + 1) for k in range(200)]
    metric = rate(done, [1.0] * 200, (0, 4015 * MS), unit="requests/s", block=1)
    assert metric.low is not None
    assert metric.high is not None
    assert metric.low < metric.value < metric.high, "the time after the last completion belongs to the resamples too"
