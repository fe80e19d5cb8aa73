"""Lines of progress: what is launched, what came out, what is skipped, why it stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.cli.progress import BarDisplay, LineDisplay, event_lines, time_left_s
from harness.records import Trial
from harness.trial.progress import Phase
from harness.tune.search_records import SearchEvent
from tests.harness.tune.landscape import plan, scenario, trial_of

OF = scenario({"trials": 12, "max_minutes": 4.0})
CANDIDATE = plan(OF).candidates[0]


def test_a_launch_names_the_candidate_and_how_long_it_should_take() -> None:
    event = SearchEvent(kind="launching", measured=3, spent_s=60.0, candidate=CANDIDATE, number=4, expected_s=18.0)
    assert event_lines(event, OF) == ["[3/12] trial 4: transformers fp32, batch 1, 1 worker, 1 thread, about 18.0 s"]


def test_a_finished_trial_shows_its_objective_and_quality() -> None:
    event = SearchEvent(kind="finished", measured=4, spent_s=60.0, trial=trial_of(CANDIDATE, 4, OF))
    (line,) = event_lines(event, OF)
    assert line.startswith("[4/12] transformers fp32, batch 1, 1 worker, 1 thread: latency_p50_ms ")
    assert line.endswith("quality Normal")


def test_a_failure_is_one_line_however_long_its_log() -> None:
    failed = replace(trial_of(CANDIDATE, 4, OF), outcome="crashed", reason="it died\n" + "log line\n" * 500)
    (line,) = event_lines(SearchEvent(kind="finished", measured=4, spent_s=60.0, trial=failed), OF)
    assert "crashed: it died log line" in line
    assert len(line) < 400
    assert line.endswith(" ...")


def test_skipping_and_stopping_say_why() -> None:
    skipped = Trial(trial_id="t", number=5, candidate=CANDIDATE, outcome="skipped", reason="because")
    assert event_lines(SearchEvent(kind="skipped", measured=4, spent_s=1.0, trial=skipped), OF) == [
        "[4/12] skipped transformers fp32, batch 1, 1 worker, 1 thread: because"
    ]
    stopped = SearchEvent(kind="stopped", measured=4, spent_s=75.0, text="trial budget: 12 of 12 candidates measured")
    assert event_lines(stopped, OF) == ["stopped after 1 min 15 s: trial budget: 12 of 12 candidates measured"]


def test_the_time_left_never_exceeds_the_budget() -> None:
    assert time_left_s(SearchEvent(kind="finished", measured=0, spent_s=5.0), OF) is None
    assert time_left_s(SearchEvent(kind="finished", measured=6, spent_s=60.0), OF) == 60.0
    assert time_left_s(SearchEvent(kind="finished", measured=2, spent_s=100.0), OF) == 140.0


def test_a_phase_is_announced_once(capsys: pytest.CaptureFixture[str]) -> None:
    display = LineDisplay(OF)
    for done in range(5):
        display.on_phase(Phase(name="load", done=done, total=150))
    assert capsys.readouterr().err == "    load, 150 requests\n"


def test_bars_keep_the_lines_and_stay_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    launching = SearchEvent(kind="launching", measured=0, spent_s=1.0, candidate=CANDIDATE, number=1)
    finished = SearchEvent(kind="finished", measured=1, spent_s=20.0, trial=trial_of(CANDIDATE, 1, OF))
    with BarDisplay(OF) as display:
        display.on_event(launching)
        display.on_phase(Phase(name="load", done=3, total=150))
        display.on_event(finished)
        display.note("a [bracketed] note")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "[1/12] transformers fp32" in shown.err
    assert "a [bracketed] note" in shown.err
