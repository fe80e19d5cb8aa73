"""Finalists: who they are, in which order they are measured again, and what is left after an interruption."""

from __future__ import annotations

from dataclasses import replace

from harness.records import Candidate, Metric, QualityReport, Trial, TrialSummary
from harness.scenario.schema import Scenario
from harness.tune.finalists import finalists, first_measurements, remaining, repetitions


def _scenario(finalist_count: int = 2, repetition_count: int = 2) -> Scenario:
    confirm = {"finalists": finalist_count, "repetitions": repetition_count}
    return Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}], "search": {"confirm": confirm}})


def _trial(workers: int, latency_ms: float, number: int = 1) -> Trial:
    metric = Metric(value=latency_ms, unit="ms", estimator="t", n=9)
    return Trial(
        trial_id=f"t{number}-{workers}",
        number=number,
        candidate=Candidate(block=0, engine="fake", workers=workers),
        outcome="ok",
        summary=TrialSummary(metrics={"latency_p50_ms": metric}),
    )


A, B, C = _trial(1, 30.0, 1), _trial(2, 10.0, 2), _trial(3, 20.0, 3)


def test_finalists_are_the_best_feasible_ones() -> None:
    assert finalists([A, B, C], _scenario()) == (B.candidate, C.candidate)
    broken = replace(B, violations=("quality",))
    assert finalists([A, broken, C], _scenario()) == (C.candidate, A.candidate)


def test_one_that_ended_early_is_no_finalist_whatever_its_estimate() -> None:
    assert finalists([A, replace(B, outcome="ended_early"), C], _scenario()) == (C.candidate, A.candidate)


def test_the_incumbent_is_measured_again_beside_the_finalists() -> None:
    space = [{"engine": "fake", "workers": [2, 3]}, {"engine": "fake", "incumbent": True}]
    scenario = _scenario().model_copy(update={"space": Scenario.model_validate({"name": "s", "space": space}).space})
    today = replace(A, candidate=replace(A.candidate, block=1))
    assert finalists([today, B, C], scenario) == (B.candidate, C.candidate, today.candidate)
    assert finalists([replace(today, violations=("quality",)), B, C], scenario) == (B.candidate, C.candidate)


def test_one_feasible_candidate_is_not_measured_again() -> None:
    assert finalists([A], _scenario()) == ()
    assert remaining([A, B, C], _scenario(finalist_count=0)) == ()


def test_one_that_inherited_its_quality_is_judged_itself() -> None:
    report = QualityReport(verdict="Normal", reason="inherited", metrics={}, inherited_from="t3-3")
    assert finalists([replace(A, quality=report)], _scenario()) == (A.candidate,)
    assert finalists([replace(A, quality=replace(report, inherited_from=""))], _scenario()) == ()


def test_rounds_are_interleaved_and_every_second_one_is_reversed() -> None:
    order = [(each.workers, repetition) for each, repetition in remaining([A, B, C], _scenario())]
    assert order == [(3, 1), (2, 1), (2, 2), (3, 2)]


def test_what_was_measured_again_is_not_left_and_changes_no_finalist() -> None:
    again = [_trial(3, 99.0, 4), _trial(2, 50.0, 5)]
    order = [(each.workers, repetition) for each, repetition in remaining([A, B, C, *again], _scenario())]
    assert order == [(2, 2), (3, 2)]


def test_an_interrupted_trial_counts_as_not_measured() -> None:
    stopped = replace(_trial(3, 1.0, 4), outcome="interrupted", summary=None)
    assert repetitions([C, stopped], C.candidate) == 1
    assert first_measurements([stopped, C]) == (C,)
