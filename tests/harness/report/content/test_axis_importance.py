"""Importance of axes: found where it is, not found where there is none, silent where n is too small."""

from __future__ import annotations

import numpy as np

from harness.choose.goals import Objective
from harness.choose.repetitions import pool
from harness.records import Trial
from harness.report.content.axis_importance import MIN_CANDIDATES, importances, omega_squared
from tests.harness.choose.runs import candidate, trial

P50 = Objective(metric="latency_p50_ms", is_minimized=True)


def _grid(effect: float, noise: float = 0.02) -> list[Trial]:
    """24 candidates: workers multiply the latency by exp(effect) each, batch size does nothing."""
    rng = np.random.default_rng(3)
    made = []
    for workers in (1, 2, 3):
        for batch in (1, 2, 4, 8):
            for delay in (0, 5):
                value = 20.0 * float(np.exp(effect * workers + rng.normal(0, noise)))
                what = candidate(workers=workers, batch_size=batch, max_batch_delay_ms=delay)
                made.append(trial(len(made) + 1, what, (value, value, value)))
    return made


def test_the_axis_that_decides_comes_first_and_the_others_are_chance() -> None:
    first, *rest = importances(pool(_grid(0.5)), P50)
    assert (first.axis, first.best_level, first.levels, first.n) == ("workers", "1", 3, 24)
    assert first.share_frac > 0.95
    assert first.is_more_than_chance
    assert {one.axis for one in rest} == {"batch_size", "max_batch_delay_ms"}
    assert not any(one.is_more_than_chance for one in rest)


def test_pure_noise_is_called_chance_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], 8)
    shares = [omega_squared(codes, rng.normal(size=24)) for _ in range(2000)]
    assert np.mean(shares) < 0.05
    assert np.median(shares) == 0.0


def test_few_candidates_say_nothing() -> None:
    assert importances(pool(_grid(0.5)[: MIN_CANDIDATES - 1]), P50) == ()


def test_an_axis_with_a_new_value_for_every_candidate_is_left_out() -> None:
    trials = [trial(n, candidate(threads=n), (20.0 + n, 19.0, 21.0)) for n in range(1, 11)]
    assert importances(pool(trials), P50) == ()


def test_equal_values_explain_nothing() -> None:
    assert omega_squared(np.array([0, 0, 1, 1]), np.full(4, 7.0)) == 0.0
