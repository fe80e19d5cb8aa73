"""What a failure rules out, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.records import Candidate, Trial, TrialOutcome
from harness.tune.implausible import implausible

BASE = Candidate(block=0, engine="ctranslate2", dtype="fp32", workers=2, batch_size=4)


def _trial(candidate: Candidate, outcome: TrialOutcome, reason: str = "why") -> Trial:
    return Trial(trial_id=f"t-{candidate.candidate_id}", number=1, candidate=candidate, outcome=outcome, reason=reason)


def test_what_needs_at_least_as_much_memory_is_not_launched() -> None:
    past = [_trial(BASE, "out_of_memory")]
    why = implausible(replace(BASE, batch_size=8), past)
    assert why == (
        f"trial {past[0].trial_id} ran out of memory with workers=2 batch_size=4; this needs at least as much"
    )
    assert implausible(replace(BASE, workers=4), past)
    assert implausible(replace(BASE, max_batch_delay_ms=5), past), "the delay costs no memory"


def test_what_needs_less_or_other_memory_is_still_tried() -> None:
    past = [_trial(BASE, "out_of_memory")]
    for change in (
        {"workers": 1},
        {"batch_size": 1},
        {"dtype": "int8"},
        {"engine": "onnxruntime"},
        {"tensor_parallel_degree": 2},
        {"options": {"x": 1}},
    ):
        assert implausible(replace(BASE, **change), past) is None, change  # type: ignore[arg-type]


def test_two_failed_starts_and_no_success_end_a_group() -> None:
    others = [replace(BASE, workers=1), replace(BASE, workers=3)]
    past = [_trial(others[0], "launch_failed")]
    assert implausible(BASE, past) is None
    past.append(_trial(others[1], "timed_out", "no answer in 600 s\nlog"))
    assert implausible(BASE, past) == (
        f"2 of 2 trials of ctranslate2 fp32 failed (last: {past[1].trial_id} timed_out: no answer in 600 s)"
    )
    assert implausible(replace(BASE, dtype="int8"), past) is None
    assert implausible(BASE, [*past, _trial(replace(BASE, batch_size=1), "ok")]) is None


def test_a_skipped_candidate_is_no_evidence_for_skipping_more() -> None:
    skipped = _trial(replace(BASE, workers=4), "skipped", "because")
    assert implausible(BASE, [skipped, skipped]) is None


def test_an_environment_that_fails_says_nothing_of_another() -> None:
    past = [
        _trial(replace(BASE, python="/broken", workers=1), "launch_failed"),
        _trial(replace(BASE, python="/broken"), "launch_failed"),
    ]
    assert implausible(replace(BASE, python="/broken", workers=4), past)
    assert implausible(replace(BASE, python="/other", workers=4), past) is None
    assert implausible(replace(BASE, workers=4), past) is None


@pytest.mark.parametrize(("machine", "counts"), [("small", False), ("large", True), ("alike", True), ("gone", False)])
def test_what_a_smaller_machine_could_not_hold_may_fit_a_larger_one(machine: str, counts: bool) -> None:
    memories_mib = {"small": 8_000.0, "large": 16_000.0, "alike": 15_900.0}
    past, larger = [replace(_trial(BASE, "out_of_memory"), machine=machine)], replace(BASE, batch_size=8)
    assert (implausible(larger, past, 16_000.0, memories_mib) is not None) == counts
    assert implausible(larger, past), "where all trials run on one machine"
