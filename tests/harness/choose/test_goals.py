"""Constraint sentences, excesses and ranking."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness.choose.goals import FAILURE_EXCESS, Limit, dominates, goals_of, run_goals
from harness.choose.repetitions import pool
from harness.errors import MeasurementInvalid, StaleScenario
from harness.records import Candidate, Metric, QualityReport, QualityVerdict, Trial, TrialOutcome, TrialSummary
from harness.scenario.resolve import resolve
from harness.scenario.schema import Scenario
from harness.store.formats import RunManifest
from harness.store.reader import Run

OF = goals_of(
    Scenario.model_validate(
        {
            "name": "s",
            "space": [{"engine": "fake"}],
            "objectives": [
                {"metric": "latency_p50_ms", "goal": "minimize"},
                {"metric": "throughput_rps", "goal": "maximize"},
            ],
            "constraints": {"quality": "Normal", "latency_p99_ms": {"max": 500}, "exact_match_frac": {"min": 0.9}},
        }
    )
)


def _trial(
    verdict: QualityVerdict = "Normal", outcome: TrialOutcome = "ok", exact: float = 0.95, **load: float
) -> Trial:
    values = {"latency_p50_ms": 20.0, "throughput_rps": 50.0, "latency_p99_ms": 100.0, **load}
    units = {"throughput_rps": "requests/s"}
    metrics = {n: Metric(value=v, unit=units.get(n, "ms"), estimator="t", n=9) for n, v in values.items()}
    quality = {"exact_match_frac": Metric(value=exact, unit="", estimator="t", n=9)}
    return Trial(
        trial_id="t1",
        number=1,
        candidate=Candidate(block=0, engine="fake"),
        outcome=outcome,
        summary=TrialSummary(metrics=metrics),
        quality=QualityReport(verdict=verdict, reason="2 of 64 differ", metrics=quality),
    )


def test_a_trial_inside_every_bound_breaks_nothing() -> None:
    assert OF.violations(_trial()) == ()
    assert all(excess <= 0 for excess in OF.excesses(_trial()).values())


def test_each_broken_constraint_is_one_sentence() -> None:
    assert OF.violations(_trial(verdict="Degraded", exact=0.5, latency_p99_ms=612.73)) == (
        "quality Degraded, expected Normal: 2 of 64 differ",
        "latency_p99_ms 612.7 ms, expected at most 500 ms",
        "exact_match_frac 0.5, expected at least 0.9",
    )


def test_the_bound_itself_is_allowed() -> None:
    assert OF.violations(_trial(latency_p99_ms=500.0, exact=0.9)) == ()


def test_what_a_trial_that_ended_early_did_not_measure_counts_as_kept() -> None:
    lost = _trial(outcome="ended_early", exact=0.5)
    assert lost.summary is not None
    only = {"latency_p50_ms": lost.summary.metrics["latency_p50_ms"]}
    excesses = OF.excesses(replace(lost, summary=TrialSummary(metrics=only)))
    assert excesses["ran"] == excesses["latency_p99_ms"] == -1.0
    assert excesses["exact_match_frac"] > 0


def test_a_metric_without_a_number_breaks_its_constraint() -> None:
    expected = ("latency_p99_ms was not measured, expected at most 500",)
    trial = _trial(latency_p99_ms=math.nan)
    assert OF.violations(trial) == expected
    assert trial.summary is not None
    unmeasured = {name: one for name, one in trial.summary.metrics.items() if name != "latency_p99_ms"}
    assert OF.checks(replace(trial, summary=TrialSummary(metrics=unmeasured))) == OF.checks(trial)


def test_excess_is_relative_to_the_bound() -> None:
    found = OF.excesses(_trial(latency_p99_ms=750.0))
    assert found["latency_p99_ms"] == 0.5
    assert found["ran"] == -1.0


def test_of_two_limits_of_one_name_the_one_that_is_more_broken_counts() -> None:
    limits = [Limit(metric="latency_p99_ms", low=None, high=high) for high in (500.0, 1000.0)]
    for one_order in (limits, limits[::-1]):
        excesses = replace(OF, limits=tuple(one_order)).excesses(_trial(latency_p99_ms=750.0))
        assert excesses["latency_p99_ms"] == 0.5


def test_a_candidate_that_did_not_run_is_worse_than_any_that_did() -> None:
    assert OF.excesses(_trial(outcome="crashed")) == {"ran": FAILURE_EXCESS}
    assert max(OF.excesses(_trial(latency_p99_ms=1e12)).values()) <= FAILURE_EXCESS


@pytest.mark.parametrize("missing", [math.nan, None])
def test_an_objective_without_a_number_costs_the_most_and_is_infeasible(missing: float | None) -> None:
    trial = _trial(latency_p50_ms=math.nan)
    assert trial.summary is not None
    if missing is None:
        metrics = {name: one for name, one in trial.summary.metrics.items() if name != "latency_p50_ms"}
        trial = replace(trial, summary=TrialSummary(metrics=metrics))
    assert OF.costs(trial) == (math.inf, -50.0)
    assert OF.violations(trial) == ("latency_p50_ms was not measured, expected a value",)


def test_ranking_pools_repetitions_and_turns_maximised_objectives() -> None:
    (one,) = pool([_trial(latency_p50_ms=10.0), _trial(latency_p50_ms=30.0)])
    assert one.costs(OF) == (20.0, -50.0)


def test_one_candidate_dominates_another_that_is_nowhere_better_and_somewhere_worse() -> None:
    assert dominates((1.0, 2.0), (1.0, 3.0))
    assert not dominates((1.0, 2.0), (1.0, 2.0))
    assert not dominates((1.0, 4.0), (2.0, 3.0))


def test_not_one_answer_breaks_what_must_hold_though_the_waiting_has_a_latency() -> None:
    assert OF.violations(_trial(error_frac=1.0)) == ("not one of 9 requests was answered in time",)
    assert OF.violations(_trial(error_frac=0.99)) == ()


def test_a_maximum_rate_of_zero_breaks_what_must_hold_and_says_why() -> None:
    trial = _trial(max_rate_rps=0.0)
    assert trial.summary is not None
    metrics = dict(trial.summary.metrics)
    metrics["max_rate_rps"] = replace(metrics["max_rate_rps"], note="even 5 requests/s broke the SLO: p99 900 ms")
    trial = replace(trial, summary=TrialSummary(metrics=metrics))
    assert OF.violations(trial) == ("max_rate_rps 0: even 5 requests/s broke the SLO: p99 900 ms",)


SCENARIO = Scenario.model_validate(
    {
        "name": "s",
        "space": [{"engine": "fake"}],
        "objectives": [{"metric": "throughput_rps", "goal": "maximize"}],
        "constraints": {"quality": "Normal", "latency_p99_ms": {"max": 500}},
    }
)


def _stored(**changes: object) -> Run:
    stored = {**resolve(SCENARIO, Path("/a/s.yaml")).as_dict(), **changes}
    return Run(root=Path("/runs/s/1"), manifest=RunManifest(scenario=stored, digest="d"), trials=())


def test_a_stored_run_has_the_goals_it_was_searched_with() -> None:
    run = _stored()
    assert run.resolved.scenario == SCENARIO
    assert run_goals(run) == goals_of(SCENARIO)


def test_a_run_whose_scenario_is_no_longer_accepted_still_has_its_goals_and_says_why_it_cannot_be_measured() -> None:
    run = _stored(space=[{"engine": "an-engine-that-is-gone"}])
    assert run_goals(run) == goals_of(SCENARIO)
    with pytest.raises(StaleScenario, match=r"^/runs/s/1/run.json: scenario.space.0.engine: .*an-engine-that-is-gone"):
        _ = run.resolved


def test_a_run_that_names_no_objective_cannot_be_chosen_from() -> None:
    with pytest.raises(MeasurementInvalid, match="expected at least one objective"):
        run_goals(_stored(objectives=[]))


@pytest.mark.parametrize(
    ("written", "barred"),
    [
        ({"quality": "Normal"}, ["Degraded", "Broken", "Unknown", None]),
        ({}, ["Degraded", "Broken"]),
        ({"quality": "any"}, []),
    ],
)
def test_which_answers_a_scenario_accepts(written: dict[str, str], barred: list[QualityVerdict | None]) -> None:
    goals = goals_of(Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}], "constraints": written}))
    verdicts: tuple[QualityVerdict, ...] = ("Normal", "Degraded", "Broken", "Unknown")
    trials: dict[QualityVerdict | None, Trial] = {verdict: _trial(verdict) for verdict in verdicts}
    trials[None] = replace(_trial(), quality=None)
    assert [verdict for verdict, trial in trials.items() if goals.violations(trial)] == barred
