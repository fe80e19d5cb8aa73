"""Constraint sentences, excesses and ranking."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.records import Candidate, Metric, QualityReport, QualityVerdict, Trial, TrialOutcome, TrialSummary
from harness.scenario.schema import Scenario
from harness.tune.objective import FAILURE_EXCESS, excesses, objective_values, rank_key, violations

OF = Scenario.model_validate(
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
    assert violations(_trial(), OF) == ()
    assert all(excess <= 0 for excess in excesses(_trial(), OF).values())


def test_each_broken_constraint_is_one_sentence() -> None:
    assert violations(_trial(verdict="Degraded", exact=0.5, latency_p99_ms=612.73), OF) == (
        "quality Degraded, expected Normal: 2 of 64 differ",
        "latency_p99_ms 612.7 ms, expected at most 500 ms",
        "exact_match_frac 0.5, expected at least 0.9",
    )


def test_the_bound_itself_is_allowed() -> None:
    assert violations(_trial(latency_p99_ms=500.0, exact=0.9), OF) == ()


def test_a_metric_without_a_number_breaks_its_constraint() -> None:
    assert violations(_trial(latency_p99_ms=math.nan), OF) == ("latency_p99_ms was not measured, expected at most 500",)


def test_excess_is_relative_to_the_bound() -> None:
    found = excesses(_trial(latency_p99_ms=750.0), OF)
    assert found["latency_p99_ms"] == 0.5
    assert found["ran"] == -1.0


def test_a_candidate_that_did_not_run_is_worse_than_any_that_did() -> None:
    assert excesses(_trial(outcome="crashed"), OF) == {"ran": FAILURE_EXCESS}
    assert max(excesses(_trial(latency_p99_ms=1e12), OF).values()) <= FAILURE_EXCESS


def test_an_objective_without_a_number_gets_the_worst_value_and_is_infeasible() -> None:
    trial = _trial(latency_p50_ms=math.nan)
    assert objective_values(trial, OF) == (math.inf, 50.0)


def test_ranking_pools_repetitions_and_turns_maximised_objectives() -> None:
    assert rank_key([_trial(latency_p50_ms=10.0), _trial(latency_p50_ms=30.0)], OF) == (20.0, -50.0)


def test_a_maximum_rate_of_zero_breaks_what_must_hold_and_says_why() -> None:
    trial = _trial(max_rate_rps=0.0)
    assert trial.summary is not None
    metrics = dict(trial.summary.metrics)
    metrics["max_rate_rps"] = replace(metrics["max_rate_rps"], note="even 5 requests/s broke the SLO: p99 900 ms")
    trial = replace(trial, summary=TrialSummary(metrics=metrics))
    assert violations(trial, OF) == ("max_rate_rps 0: even 5 requests/s broke the SLO: p99 900 ms",)
