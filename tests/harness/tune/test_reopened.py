"""A race is judged again when the spread of launches is known, and may be found too strict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from harness.choose.repetitions import pool
from harness.records import Candidate, Trial
from harness.scenario.schema import Scenario
from harness.tune import loop
from harness.tune.finalists import finalists, remaining, whole_measurements
from harness.tune.loop import WHOLE, search
from harness.tune.reopened import reopened
from harness.tune.search_records import SearchResult
from tests.harness.choose.runs import ended
from tests.harness.tune import landscape
from tests.harness.tune.test_spreads import launch

SCENARIO = Scenario.model_validate(
    {"name": "s", "space": [{"engine": "fake"}], "search": {"confirm": {"finalists": 2, "repetitions": 2}}}
)


def _launch(number: int, value: float, workers: int, repetition: int = 0) -> Trial:
    return launch(number, value, engine="fake", workers=workers, repetition=repetition)


def _searched(spread: float, at_least: Sequence[float]) -> list[Trial]:
    """Two finalists of 10 and 11 ms, launched again `spread` to either side; and what lost its race to the first by
    these bounds, with 11, 12 ... workers."""
    first = [_launch(1, 10.0, 1), _launch(2, 11.0, 2)]
    lost = [
        ended(3 + n, Candidate(block=0, engine="fake", workers=11 + n), first[0], each)
        for n, each in enumerate(at_least)
    ]
    again = [
        _launch(10 * workers + turn, value * (1 + way * spread), workers, turn)
        for workers, value in ((1, 10.0), (2, 11.0))
        for turn, way in ((1, -1), (2, 1))
    ]
    return [*first, *lost, *again]


def _workers(trials: Sequence[Trial]) -> list[int]:
    return [candidate.workers for candidate in reopened(trials, SCENARIO, {})]


def test_nothing_is_reopened_where_launches_differ_as_little_as_assumed() -> None:
    assert _workers(_searched(0.02, [0.12, 0.3])) == []


def test_where_they_differ_by_more_what_may_be_as_good_is_measured_whole_the_nearest_first() -> None:
    assert _workers(_searched(0.15, [0.3, 2.0, 0.12])) == [13, 11]


def test_the_luck_of_the_launch_that_it_raced_is_known_by_then() -> None:
    """Against a first launch of 10 ms its bound is 12.5; the best finalist takes 10, or truly 6.5."""
    trials = _searched(0.15, [0.25])
    assert _workers(trials) == [11]
    unlucky = [
        _launch(trial.number, 6.5, 1, trial.repetition) if trial.repetition and trial.candidate.workers == 1 else trial
        for trial in trials
    ]
    assert _workers(unlucky) == []


@pytest.mark.parametrize("outcome", ["ok", "crashed", "client_limited"])
def test_it_is_measured_whole_once_whatever_becomes_of_that(outcome: Any) -> None:
    trials = _searched(0.15, [0.3])
    whole = replace(_launch(40, 9.0, 11), outcome=outcome)
    assert _workers([*trials, replace(whole, outcome="machine_lost")]) == [11]
    assert _workers([*trials, whole]) == []


def test_what_was_measured_whole_may_become_a_finalist_and_is_launched_as_often() -> None:
    trials = [*_searched(0.15, [0.3]), whole := _launch(40, 9.0, 11)]
    assert [each.workers for each in finalists(trials, SCENARIO)] == [11, 1]
    assert [(each.workers, turn) for each, turn in remaining(trials, SCENARIO)] == [(11, 1), (11, 2)]
    (one,) = (each for each in pool(trials) if each.candidate == whole.candidate)
    assert one.telling == (whole,)
    assert one.is_feasible
    assert whole in whole_measurements(trials)


def _noisy(monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
    """Launches of the landscape differ sixfold once the search is over."""
    quiet = landscape.trial_of

    def noisy(candidate: Candidate, number: int, of: Scenario, noise: float = 1.0) -> Trial:
        return quiet(candidate, number, of, noise if number <= trials else (0.4, 2.5)[number % 2])

    monkeypatch.setattr(landscape, "trial_of", noisy)


def _run(bench: landscape.Bench) -> SearchResult:
    with patch.object(loop, "StudyRecord", landscape.NoStudy):
        return search(bench.context())


def test_a_search_reopens_races_and_a_killed_one_goes_on_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = landscape.scenario({"trials": 12, "confirm": {"finalists": 2, "repetitions": 2}})
    quiet = _run(landscape.Bench(of, Path(), races=True))
    assert not any(WHOLE in trial.notes for trial in quiet.trials)
    _noisy(monkeypatch, sum(trial.repetition == 0 for trial in quiet.trials))
    whole = _run(landscape.Bench(of, Path(), races=True))
    again = [trial for trial in whole.trials if WHOLE in trial.notes]
    assert again
    assert not any(trial.race or trial.repetition for trial in again)
    assert whole.stop_reason.endswith(f"; measured whole after a race: {len(again)}")
    lost = {trial.candidate.candidate_id for trial in whole.trials if trial.race is not None}
    assert {trial.candidate.candidate_id for trial in again} <= lost
    killed = whole.trials[: whole.trials.index(again[0]) + 1]
    rest = _run(landscape.Bench(of, Path(), done=killed, races=True))
    assert [trial.trial_id for trial in rest.trials] == [trial.trial_id for trial in whole.trials]
