"""Intervals cover the truth in 93 to 97 % of 1,000 simulated runs, of independent samples and of dependent ones.

The bounds leave room for chance: 1,000 runs at 95 % have a standard error of 0.7 points. Order-statistic intervals
cover a little more where few samples lie beyond the quantile (discrete ranks); the sizes are where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

from harness.measure.statistics import estimators as stats
from harness.measure.statistics.dependence import block_length, design_effect, inefficiency
from harness.measure.statistics.estimators import mean, percentile, rate

RUNS = 1000
MEDIAN, SIGMA = 20.0, 0.5
LOW, HIGH = 0.93, 0.97

Runs = npt.NDArray[np.float64]


def independent(rng: np.random.Generator, n: int) -> Runs:
    """[RUNS, n] latencies without memory."""
    return rng.lognormal(math.log(MEDIAN), SIGMA, (RUNS, n))


def batched(rng: np.random.Generator, n: int, batch: int = 8) -> Runs:
    """[RUNS, n] latencies; the answers of a batch leave together."""
    return np.repeat(rng.lognormal(math.log(MEDIAN), SIGMA, (RUNS, n // batch)), batch, axis=1)


def queued(rng: np.random.Generator, n: int, keep: float = 0.7) -> Runs:
    """[RUNS, n] latencies whose logarithm is an AR(1) series: a queue that forgets by a factor `keep` per request."""
    noise = rng.normal(size=(n + 100, RUNS))
    for at in range(1, n + 100):
        noise[at] = keep * noise[at - 1] + math.sqrt(1 - keep**2) * noise[at]
    return np.exp(math.log(MEDIAN) + SIGMA * noise[100:].T)


LAWS: dict[str, Callable[[np.random.Generator, int], Runs]] = {
    "independent": independent,
    "batched": batched,
    "queued": queued,
}


def _true_quantile(q: float) -> float:
    return MEDIAN * math.exp(SIGMA * NormalDist().inv_cdf(q))


@pytest.mark.parametrize(
    ("law", "q", "n"),
    [
        ("independent", 0.5, 400),
        ("independent", 0.9, 800),
        ("independent", 0.95, 2000),
        ("independent", 0.99, 3000),
        ("batched", 0.5, 800),
        ("batched", 0.9, 4800),
        ("queued", 0.5, 1000),
        ("queued", 0.9, 1500),
        ("queued", 0.99, 4000),
    ],
)
def test_a_percentile_interval_covers_the_truth(law: str, q: float, n: int) -> None:
    runs, truth, hits = LAWS[law](np.random.default_rng(7), n), _true_quantile(q), 0
    for run in runs:
        metric = percentile(run, q, scale=1.0)  # type: ignore[arg-type]
        assert metric.low is not None
        assert metric.high is not None
        hits += metric.low <= truth <= metric.high
    assert LOW <= hits / RUNS <= HIGH


@pytest.mark.parametrize(("law", "n"), [("independent", 300), ("batched", 1600), ("queued", 1500)])
def test_a_mean_interval_covers_the_truth(law: str, n: int) -> None:
    runs, truth, hits = LAWS[law](np.random.default_rng(5), n), MEDIAN * math.exp(SIGMA**2 / 2), 0
    for run in runs:
        metric = mean(run, scale=1.0)  # type: ignore[arg-type]
        assert metric.low is not None
        assert metric.high is not None
        hits += metric.low <= truth <= metric.high
    assert LOW <= hits / RUNS <= HIGH


@pytest.mark.parametrize("law", ["independent", "queued"])
def test_an_interval_of_many_samples_from_fewer_longer_blocks_covers_the_truth(
    law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on the number of blocks, scaled down: 2,000 samples in 100 blocks as a million in 20,000."""
    monkeypatch.setattr(stats, "BOOTSTRAP_BLOCKS", 100)
    runs, truth, hits = LAWS[law](np.random.default_rng(13), 2000), MEDIAN * math.exp(SIGMA**2 / 2), 0
    for run in runs:
        metric = mean(run, scale=1.0)  # type: ignore[arg-type]
        assert "blocks of 2" in metric.estimator or law == "queued"
        assert metric.low is not None
        assert metric.high is not None
        hits += metric.low <= truth <= metric.high
    assert LOW <= hits / RUNS <= HIGH


@pytest.mark.parametrize("law", ["independent", "batched", "queued"])
def test_a_rate_interval_covers_the_truth(law: str) -> None:
    """Completions with lognormal gaps; 'batched': eight leave at once, one gap apart from the next eight."""
    n, gaps_ms = 1600, LAWS[law](np.random.default_rng(3), 1600)
    if law == "batched":
        gaps_ms = gaps_ms * (np.arange(n) % 8 == 0) * 8
    truth_rps, hits = 1e3 / (MEDIAN * math.exp(SIGMA**2 / 2)), 0
    for run in gaps_ms:
        times = np.cumsum(run * 1e6).astype(np.int64)
        window = (0, int(times[-1]))
        metric = rate(times.tolist(), [1.0] * n, window, unit="requests/s", block=8)
        assert metric.low is not None
        assert metric.high is not None
        hits += metric.low <= truth_rps <= metric.high
    assert LOW <= hits / RUNS <= HIGH


def test_answers_that_share_a_batch_are_worth_one_each_batch() -> None:
    for run in batched(np.random.default_rng(11), 1600)[:50]:
        assert 5.0 <= design_effect(run, 0.5) <= 20.0
        assert 5.0 <= design_effect(run, 0.99) <= 20.0


def test_a_tail_of_one_batch_is_not_taken_for_eight_samples() -> None:
    run = batched(np.random.default_rng(1), 504)[0]
    metric = percentile(run, 0.99, scale=1.0)  # type: ignore[arg-type]
    assert metric.high is None
    assert "no upper bound" in metric.note


def test_independent_samples_are_seldom_taken_for_dependent() -> None:
    runs = independent(np.random.default_rng(3), 400)[:300]
    effects = np.array([design_effect(run, q) for run in runs for q in (0.5, 0.99)])
    assert np.mean(effects > 1) < 0.2
    assert effects.max() < 2.5


def test_a_known_round_of_users_is_looked_at_as_a_whole() -> None:
    """Every eighth answer is slow in slow rounds: neighbours look independent, rounds do not."""
    rng = np.random.default_rng(9)
    slow = np.repeat(rng.random(100) < 0.5, 8) & (np.arange(800) % 8 % 4 == 3)
    values = rng.normal(size=800) + 4.0 * slow
    assert inefficiency(values, 8) > inefficiency(values)


def test_blocks_grow_with_dependence_and_stay_below_a_fifth() -> None:
    rng = np.random.default_rng(2)
    assert block_length(independent(rng, 1000)[0]) <= 10
    assert block_length(queued(rng, 1000, keep=0.9)[0]) >= 20
    assert block_length(np.cumsum(rng.normal(size=100))) <= 20
    assert block_length(independent(rng, 1000)[0], at_least=32) >= 32


def test_a_bound_never_lies_on_the_wrong_side_of_the_value() -> None:
    """Few independent samples far in the tail: the lower end must not reach the largest sample."""
    for run in batched(np.random.default_rng(4), 296)[:100]:
        for q in (0.5, 0.99, 0.999):
            metric = percentile(run, q, scale=1.0)  # type: ignore[arg-type]
            assert metric.low is None or metric.low <= metric.value
            assert metric.high is None or metric.high >= metric.value
