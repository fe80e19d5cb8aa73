"""The chance that a finalist is better: calibrated on simulated launches, and what is decided by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from harness.choose.decide import decide
from harness.choose.explain import losses, margin
from harness.choose.goals import Goals, Objective
from harness.choose.paired import chance_better, launch_spread_frac
from harness.choose.recommendation import choose
from harness.choose.repetitions import pool
from harness.measure.statistics.distributions import wilson_interval
from harness.records import Candidate, Trial
from tests.harness.choose.runs import candidate, run_of, trial

GOALS = Goals(objectives=(Objective(metric="latency_p50_ms", is_minimized=True),), limits=(), quality="any")
ONE, TWO, THREE = candidate(workers=1), candidate(workers=2), candidate(workers=3)


def _launches(what: Candidate, values: Sequence[float]) -> list[Trial]:
    """The search's own measurement, then one for each round."""
    return [
        replace(trial(index + 1, what, (value, value * 0.99, value * 1.01)), repetition=index)
        for index, value in enumerate(values)
    ]


def _stated(rng: np.random.Generator, spread: float, rounds: int) -> tuple[float, bool]:
    """Of a search over 12 candidates whose launches differ by 3 %: the chance stated for the runner-up, and the truth.

    The two best by their first launch are measured again in rounds that drift.
    """
    true = rng.normal(np.log(20.0), spread, 12)
    first = true + rng.normal(0.0, 0.03, 12)
    best = np.argsort(first)[:2]
    again = true[best] + rng.normal(0.0, 0.03, (rounds, 2)) + rng.normal(0.0, 0.05, (rounds, 1))
    both = pool(
        each
        for what, index, column in ((ONE, best[0], again[:, 0]), (TWO, best[1], again[:, 1]))
        for each in _launches(what, np.exp([first[index], *column]).tolist())
    )
    chosen, other = sorted(both, key=lambda one: one.costs(GOALS))
    chance = chance_better(other, chosen, GOALS)
    assert chance is not None
    is_better = (true[best[1]] < true[best[0]]) == (other.candidate == TWO)
    return chance, bool(is_better)


def test_a_stated_chance_is_how_often_it_happens() -> None:
    """1,600 searches, in half of which candidates differ by 3 %, as launches do, and in half by 10 %."""
    rng = np.random.default_rng(1)
    drawn = [_stated(rng, spread, rounds) for spread in (0.03, 0.1) for rounds in (4, 6) for _ in range(400)]
    said, saw = np.array(drawn, dtype=float).T
    unsure = (said >= 0.1) & (said < 0.4)
    low, high = wilson_interval(saw[unsure].sum(), unsure.sum())
    assert unsure.sum() >= 400
    assert low <= said[unsure].mean() <= high, f"said {said[unsure].mean():.3f}, happened {saw[unsure].mean():.3f}"


def test_what_drifts_between_rounds_is_no_difference_of_two_candidates() -> None:
    """Rounds differ by a factor of two; within each round the second is 5 % slower."""
    rounds = [10.0, 20.0, 12.0, 16.0]
    trials = _launches(ONE, [10.0, *rounds]) + _launches(TWO, [10.5, *(1.05 * each for each in rounds)])
    one, two = pool(trials)
    assert chance_better(two, one, GOALS) == pytest.approx(0.0, abs=1e-3)
    assert chance_better(one, two, GOALS) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("values", [(10.0, 10.0, 10.0, 10.0), (11.0, 11.0, 11.0, 11.0)])
def test_launches_without_any_spread_are_sure_or_equal(values: tuple[float, ...]) -> None:
    one, two = pool(_launches(ONE, [10.0] * 5) + _launches(TWO, [10.0, *values]))
    assert chance_better(two, one, GOALS) == (0.5 if values[0] == 10.0 else 0.0)


def test_three_rounds_state_no_chance() -> None:
    one, two = pool(_launches(ONE, [10.0, 10.1, 9.9, 10.0]) + _launches(TWO, [10.2, 10.3, 10.1, 10.2]))
    assert chance_better(two, one, GOALS) is None


def test_a_larger_value_is_the_better_one_where_the_goal_says_so() -> None:
    goals = Goals(objectives=(Objective(metric="throughput_rps", is_minimized=False),), limits=(), quality="any")
    one, two = pool(_launches(ONE, [10.0, 10.1, 9.9, 10.0, 10.2]) + _launches(TWO, [10.5, 10.7, 10.3, 10.5, 10.6]))
    assert (chance_better(two, one, goals) or 0.0) < 0.01


def test_cannot_tell_is_an_answer_and_the_cheaper_one_is_taken() -> None:
    """Two workers are 1 % faster on average, and as often slower."""
    trials = _launches(TWO, [9.8, 10.0, 9.7, 10.1, 9.8]) + _launches(ONE, [10.0, 9.9, 10.1, 9.9, 10.0])
    choice = decide(trials, GOALS)
    assert choice.chosen.candidate == ONE
    assert [one.candidate for one in choice.tied] == [TWO]
    assert "cannot tell which is best, so the cheapest was taken; it may as well be" in margin(choice)
    (lost,) = losses(choice)
    assert lost.kind == "tie"
    assert "4 paired launches" in lost.why
    assert "it needs 2 workers instead of 1" in lost.why


def test_paired_launches_tell_apart_what_intervals_do_not() -> None:
    """The pooled intervals overlap, since the machine drifted; within each round the order is the same."""
    rounds = [10.0, 12.0, 11.0, 13.0]
    trials = _launches(ONE, [10.6, *(1.06 * each for each in rounds)]) + _launches(TWO, [10.0, *rounds])
    choice = decide(trials, GOALS)
    assert choice.chosen.candidate == TWO
    assert choice.tied == ()
    assert "(better with a chance of under 1 %, 4 paired launches)" in margin(choice)


def test_one_that_was_no_finalist_is_not_chosen_for_one_lucky_launch() -> None:
    trials = _launches(ONE, [9.0, 10.0, 10.1, 9.9, 10.0]) + _launches(TWO, [9.1, 12.0, 12.1, 11.9, 12.0])
    choice = decide([*trials, *_launches(THREE, [9.2])], GOALS)
    assert choice.chosen.candidate == ONE
    assert next(lost for lost in losses(choice) if lost.candidate == THREE).why.endswith(
        "by its first measurement it was no finalist"
    )


def test_the_recommendation_gives_the_spread_over_launches_and_the_chance() -> None:
    trials = _launches(ONE, [10.0, 10.2, 9.8, 10.1, 9.9]) + _launches(TWO, [10.6, 10.9, 10.2, 10.8, 10.6])
    made = choose(run_of(*trials))
    assert made.launch_spread_frac == pytest.approx(0.0183, abs=1e-4)
    assert made.runner_up_chance is not None
    assert made.runner_up_chance < 0.01
    assert "its launches differ by 1.8 % (standard deviation)" in made.margin
    assert launch_spread_frac(pool(_launches(ONE, [10.0]))[0], GOALS) is None
