"""Reproduced or not: the second value against the range the first measurements span."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from harness.execute.trial import TrialRunner
from harness.execute.verify import VERIFIED_METRICS, Verification, verify_file
from harness.records import Candidate, Metric, Trial, TrialOutcome, TrialSummary

CANDIDATE = Candidate(block=0, engine="fake")


def _trial(value: float, outcome: TrialOutcome = "ok", violations: tuple[str, ...] = ()) -> Trial:
    metrics = {
        name: Metric(value=value, unit="ms", estimator="made up", n=100, low=value * 0.98, high=value * 1.02)
        for name in VERIFIED_METRICS
    }
    return Trial(
        trial_id="t0001",
        number=1,
        candidate=CANDIDATE,
        outcome=outcome,
        reason="" if outcome == "ok" else "it fell over",
        summary=TrialSummary(metrics=metrics),
        violations=violations,
    )


class _Runner:
    def __init__(self, again: Trial) -> None:
        self.again = again

    def run_file(self, candidate: Candidate, properties_path: Path, number: int) -> Trial:
        return self.again


def _verify(promised: list[Trial], again: Trial) -> Verification:
    return verify_file(cast(TrialRunner, _Runner(again)), promised, Path("serving.properties"), 2, lambda text: None)


@pytest.mark.parametrize(("second", "is_inside"), [(100, True), (114, True), (87, True), (140, False), (60, False)])
def test_a_second_value_counts_as_reproduced_within_the_drift_allowance(second: float, is_inside: bool) -> None:
    found = _verify([_trial(100)], _trial(second))
    assert found.is_inside is is_inside
    assert f"{second:.4g} ms" in found.sentence
    assert ("inside" if is_inside else "outside") in found.sentence


def test_repetitions_widen_what_was_promised() -> None:
    assert _verify([_trial(100), _trial(140)], _trial(125)).is_inside
    assert not _verify([_trial(100), _trial(140)], _trial(190)).is_inside


def test_a_server_that_fails_is_not_reproduced() -> None:
    found = _verify([_trial(100)], _trial(100, outcome="crashed"))
    assert not found.is_inside
    assert found.sentence == "not reproduced: crashed: it fell over"


def test_a_constraint_broken_the_second_time_is_not_reproduced() -> None:
    found = _verify([_trial(100)], _trial(100, violations=("error_frac 0.2, expected at most 0",)))
    assert not found.is_inside
    assert "error_frac 0.2" in found.sentence
