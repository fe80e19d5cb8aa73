"""When a search has found enough: on a landscape whose best is known, and what cannot be known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.choose.goals import Goals, Objective
from harness.records import Candidate, Metric, Trial
from harness.tune import expected_gain
from harness.tune.expected_gain import ENOUGH_FRAC, LEAST_TO_END, MIN_MEASURED, expected_gain_frac, has_enough
from harness.tune.loop import search
from harness.tune.surrogate import Distances, _Fits, expected_improvement, fitted, fitted_by_axis
from tests.harness.tune.landscape import Bench, best_latency_ms, latency_ms, plan, scenario, trial_of

SPACE = [Candidate(block=0, engine="fake", workers=w, batch_size=b) for w in (1, 2, 4, 8) for b in (1, 2, 4, 8)]
GOALS = Goals(objectives=(Objective(metric="latency_p50_ms", is_minimized=True),), limits=(), quality="any")
OF = scenario()


def _trial(candidate: Candidate, latency: float) -> Trial:
    trial = trial_of(replace(candidate, engine="ctranslate2"), 1, OF)
    assert trial.summary is not None
    metric = Metric(value=latency, unit="ms", estimator="t", n=9)
    summary = replace(trial.summary, metrics={**trial.summary.metrics, "latency_p50_ms": metric})
    return replace(trial, candidate=candidate, trial_id=candidate.candidate_id, summary=summary)


def _gain(values: dict[int, float]) -> float | None:
    trials = [_trial(SPACE[index], latency) for index, latency in values.items()]
    left = [each for index, each in enumerate(SPACE) if index not in values]
    return expected_gain_frac(Distances(SPACE), GOALS, trials, left)


def test_on_a_plateau_nothing_more_is_expected() -> None:
    """Twelve of sixteen candidates measured; all within a thousandth."""
    gain = _gain({index: 20.0 + 0.01 * (index % 3) for index in range(12)})
    assert gain is not None
    assert gain < ENOUGH_FRAC


def test_each_look_is_by_what_was_measured_and_what_was_not_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten were measured, then two skipped, which are no looks."""
    trials = [_trial(SPACE[index], 20.0) for index in range(10)]
    trials += [Trial(trial_id=f"s{index}", number=99, candidate=SPACE[index], outcome="skipped") for index in (10, 11)]
    seen: list[tuple[int, set[str]]] = []

    def looked(distances: Distances, goals: Goals, known: Sequence[Trial], left: Sequence[Candidate]) -> float:
        seen.append((len(known), {each.candidate_id for each in left}))
        return 0.0

    monkeypatch.setattr(expected_gain, "expected_gain_frac", looked)
    assert has_enough(Distances(SPACE), GOALS, trials, SPACE[12:])
    assert [count for count, _ in seen] == [12, 9, 8]
    assert [left for _, left in seen] == [{each.candidate_id for each in SPACE[count:]} for count in (12, 9, 8)]


def test_it_takes_three_looks_to_have_enough() -> None:
    trials = [_trial(SPACE[index], 20.0) for index in range(12)]
    assert has_enough(Distances(SPACE), GOALS, trials, SPACE[12:])
    assert not has_enough(Distances(SPACE), GOALS, trials[: LEAST_TO_END - 1], SPACE[12:])


def test_where_the_trend_goes_on_more_is_expected() -> None:
    """Each doubling of the batch took a third off, and the largest batch is not measured."""
    measured = [index for index, each in enumerate(SPACE) if each.batch_size < 8]
    gain = _gain({index: 40.0 * SPACE[index].batch_size ** -0.6 for index in measured})
    assert gain is not None
    assert gain > 5 * ENOUGH_FRAC


def test_what_resembles_failures_is_expected_to_gain_less() -> None:
    measured = [index for index, each in enumerate(SPACE) if each.batch_size < 8]
    trials = [_trial(SPACE[index], 40.0 * SPACE[index].batch_size ** -0.6) for index in measured]
    *left, broke = [each for each in SPACE if each.batch_size == 8]
    failed = Trial(trial_id="x", number=99, candidate=broke, outcome="out_of_memory")
    without = expected_gain_frac(Distances(SPACE), GOALS, trials, left)
    after = expected_gain_frac(Distances(SPACE), GOALS, [*trials, failed], left)
    assert without is not None
    assert after is not None
    assert after < without


@pytest.mark.parametrize("count", [0, 1, MIN_MEASURED - 1])
def test_few_measurements_end_no_search(count: int) -> None:
    assert _gain(dict.fromkeys(range(count), 20.0)) is None


def test_several_objectives_values_at_zero_and_nothing_feasible_end_no_search() -> None:
    assert _gain({index: float(index) for index in range(12)}) is None
    trials = [_trial(each, 20.0) for each in SPACE[:12]]
    two = replace(GOALS, objectives=(*GOALS.objectives, Objective(metric="throughput_rps", is_minimized=False)))
    assert expected_gain_frac(Distances(SPACE), two, trials, SPACE[12:]) is None
    broken = [replace(trial, violations=("quality",)) for trial in trials]
    assert expected_gain_frac(Distances(SPACE), GOALS, broken, SPACE[12:]) is None


def test_the_surrogate_recovers_what_it_was_shown_and_orders_what_it_was_not() -> None:
    costs = [math.log(40.0 * each.batch_size**-0.6 / each.workers**0.2) for each in SPACE]
    shown = [index for index in range(len(SPACE)) if index % 3]
    surrogate = fitted(Distances(SPACE), [SPACE[index] for index in shown], [costs[index] for index in shown])
    mean, deviation = surrogate.predict(SPACE)
    assert np.abs(mean[shown] - np.array(costs)[shown]).max() < 0.02
    hidden = [index for index in range(len(SPACE)) if index not in shown]
    assert np.abs(mean[hidden] - np.array(costs)[hidden]).max() < 0.25
    assert deviation[hidden].min() > deviation[shown].max()


def test_an_axis_that_changes_nothing_has_the_lower_rate_and_its_values_are_alike() -> None:
    shown = [each for index, each in enumerate(SPACE) if index % 3]
    surrogate = fitted_by_axis(Distances(SPACE), shown, [math.log(40.0 * each.batch_size**-0.6) for each in shown])
    rates = dict(zip(sorted(SPACE[0].axes()), surrogate.rates.tolist(), strict=True))
    assert rates["workers"] < 0.5 * rates["batch_size"]
    of_batch = [surrogate.predict([each])[0][0] for each in SPACE if each.batch_size == 8]
    assert max(of_batch) - min(of_batch) < 0.1


@pytest.mark.parametrize("least", [0.0, 1e6])
def test_the_fits_are_those_of_the_inverse_and_the_determinant(least: float) -> None:
    """Rasmussen and Williams 2006, equation 2.30, with the scale profiled out."""
    rng = np.random.default_rng(1)
    apart, costs = Distances(SPACE).by_axis(SPACE, SPACE), least + rng.normal(size=len(SPACE))
    rates, noise = rng.uniform(0.05, 3.0, (9, len(apart))), rng.uniform(1e-4, 0.3, (9, len(SPACE)))
    fits = _Fits.of(apart, costs, rates, noise)
    for index in range(9):
        covariance = np.exp(-np.tensordot(rates[index], apart, 1)) + np.diag(noise[index])
        inverse = np.linalg.inv(covariance)
        mean = inverse.sum(axis=0) @ costs / inverse.sum()
        scale = (costs - mean) @ inverse @ (costs - mean) / len(costs)
        likelihood = -0.5 * (len(costs) * math.log(scale) + np.linalg.slogdet(covariance)[1])
        found = fits.means[index], fits.scales[index], fits.likelihoods[index]
        assert found == pytest.approx((mean, scale, likelihood), rel=1e-6)


def test_what_is_under_way_changes_no_expectation_and_is_looked_at_no_more() -> None:
    shown, pending = SPACE[:8], SPACE[12:14]
    surrogate = fitted_by_axis(Distances(SPACE), shown, [math.log(40.0 * each.batch_size**-0.6) for each in shown])
    waiting = surrogate.awaiting(pending)
    (before, unsure), (after, surer) = surrogate.predict(SPACE), waiting.predict(SPACE)
    assert after == pytest.approx(before, abs=1e-6)
    assert np.all(surer <= unsure + 1e-9)
    assert surer[12:14].max() < 0.5 * unsure[12:14].min()


def test_numbers_are_ordered_where_some_engines_have_none_of_them() -> None:
    """None is as far from each number as may be, and next to None."""
    some = [Candidate(block=0, engine="fake", threads=count) for count in (1, 2, 8, None)]
    apart = Distances(some).between(some, some)
    assert apart[0, 1] < apart[0, 2] == 1.0
    assert apart[3].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_expected_improvement_is_its_formula() -> None:
    """At z = 0 it is the deviation times the density at 0; without deviation the plain difference, never below zero."""
    gains = expected_improvement(np.array([1.0, 0.5, 2.0]), np.array([0.2, 0.0, 0.0]), 1.0)
    assert gains == pytest.approx([0.2 / math.sqrt(2 * math.pi), 0.5, 0.0])


def test_a_search_ends_when_it_has_the_best_and_says_so(tmp_path: Path) -> None:
    axes = {"dtype": ["fp32", "bf16"], "workers": [1, 2, 4], "batch_size": [1, 2, 4, 8], "max_batch_delay_ms": [0, 5]}
    of = scenario({"trials": 48}, space=[{"engine": "ctranslate2", **axes}])
    bench = Bench(of, tmp_path / "study.db")
    result = search(bench.context())
    assert result.stop == "converged"
    assert result.stop_reason == (
        f"3 times running the next trial should gain less than 0.5 % ({len(result.trials)} candidates measured)"
    )
    assert LEAST_TO_END <= len(result.trials) < 40
    found = min(latency_ms(trial.candidate) for trial in result.trials if trial.is_feasible)
    assert found <= 1.02 * best_latency_ms(of)
    again = search(Bench(of, tmp_path / "study.db", done=result.trials).context())
    assert [trial.trial_id for trial in again.trials] == [trial.trial_id for trial in result.trials]


def test_a_grid_is_measured_whole(tmp_path: Path) -> None:
    of = scenario({"trials": 48, "sampler": "grid"}, space=[{"engine": "ctranslate2", "workers": list(range(1, 13))}])
    result = search(Bench(of, tmp_path / "study.db").context())
    assert len(result.trials) == plan(of).size
