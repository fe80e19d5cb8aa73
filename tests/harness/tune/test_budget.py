"""Time spent, time expected, and the sentence that stops a search."""

from __future__ import annotations

from harness.clock import FakeClock
from harness.records import Candidate, Trial
from harness.tune.budget import Budget

ONE = Candidate(block=0, engine="transformers")
OTHER = Candidate(block=1, engine="onnxruntime")


def _trial(candidate: Candidate) -> Trial:
    return Trial(trial_id="t", number=1, candidate=candidate, outcome="ok")


def test_an_unknown_duration_never_stops() -> None:
    budget = Budget(60.0, FakeClock())
    assert budget.expected_s("transformers") == 0.0
    assert budget.why_stop(ONE) is None


def test_the_median_forgives_a_first_trial_that_converted_the_model() -> None:
    budget = Budget(600.0, FakeClock())
    for duration_s in (90.0, 20.0, 22.0):
        budget.note(_trial(ONE), duration_s)
    assert budget.expected_s("transformers") == 22.0
    assert budget.expected_s("onnxruntime") == 22.0, "an engine without past trials is taken to be like the others"


def test_the_next_trial_must_fit_before_the_limit() -> None:
    clock = FakeClock()
    budget = Budget(100.0, clock, spent_before_s=30.0)
    budget.note(_trial(ONE), 25.0)
    clock.sleep_s(45.0)
    assert budget.spent_s() == 75.0
    assert budget.why_stop(ONE) is None
    clock.sleep_s(0.1)
    assert budget.why_stop(ONE) == (
        "time budget: 1 min 15 s of 1 min 40 s used, the next trial (transformers) would take about 25.0 s"
    )


def test_the_finalists_reserve_is_capped() -> None:
    budget = Budget(100.0, FakeClock())
    budget.note(_trial(OTHER), 60.0)
    assert budget.why_stop(OTHER, reserve_s=1000.0) is None
    budget.note(_trial(OTHER), 100.0)
    why = budget.why_stop(OTHER, reserve_s=1000.0)
    assert why is not None
    assert why.endswith("would take about 1 min 20 s, 30.0 s are kept for what follows")
