"""Probes are used where load takes the time, and are the first check that holds enough rounds."""

from __future__ import annotations

from dataclasses import replace

from harness.records import Candidate, Trial
from harness.tune.probe import probe_of


def _trial(number: int, engine: str, **phase_s: float) -> Trial:
    candidate = Candidate(block=0, engine=engine, workers=number)
    return Trial(trial_id=f"t{number}", number=number, candidate=candidate, outcome="ok", phase_s=phase_s)


def _found(engine: str, trials: list[Trial], users: int = 8) -> tuple[int | None, str]:
    return probe_of(engine, trials, (50, 100, 200, 300), users)


def test_trials_are_probed_where_load_takes_the_time_by_the_costs_of_the_engine() -> None:
    slow, quick = _trial(1, "slow", launch=60.0, load=20.0), _trial(2, "quick", launch=10.0, quality=2.0, load=20.0)
    why = "not probed, since load takes less than 40%: a whole trial takes 80 s (launch 75%, load 25%)"
    assert _found("slow", [slow, quick]) == (None, why)
    why = "probed by the first 50 requests: a whole trial takes 32 s (launch 31%, quality 6%, load 62%)"
    assert _found("quick", [slow, quick]) == (0, why)
    assert _found("other", [quick]) == (0, why)
    assert _found("quick", [replace(quick, outcome="crashed")])[0] is None
    assert _found("quick", [])[0] is None


def test_one_conversion_does_not_decide() -> None:
    first = _trial(1, "a", launch=300.0, load=20.0)
    rest = [_trial(number, "a", launch=5.0, load=20.0) for number in (2, 3)]
    assert _found("a", [first, *rest])[0] == 0


def test_the_probe_is_the_first_check_that_holds_enough_rounds() -> None:
    done = [_trial(1, "a", launch=5.0, load=20.0)]
    assert [_found("a", done, users)[0] for users in (1, 8, 16, 64)] == [0, 0, 1, None]
    assert _found("a", done, 64)[1] == "not probed: no check holds 6 rounds of 64 users"
