"""Loads that end before as many requests as wanted were sent: by time, or because too many of them failed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from harness.records import Candidate, Trial
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from tests.harness.store.trials import a_manifest

SCENARIO = """
name: e
workload: {load: {kind: closed, users: 2}, warmup_requests: 2, %s}
quality: {prompts: 2}
space: [{engine: fake}]
"""


def _trial(tmp_path: Path, workload: str, options: dict[str, float]) -> tuple[Trial, list[str]]:
    path = tmp_path / "e.yaml"
    path.write_text(SCENARIO % workload)
    notes: list[str] = []
    new_run = partial(RunWriter.create, tmp_path / "results", a_manifest())
    with Bench.open(resolve(load_scenario(path), path), new_run, progress=Lines(notes.append)) as bench:
        return bench.run(Candidate(block=0, engine="fake", options=options), 1), notes


@pytest.mark.heavy
def test_a_load_that_ended_by_time_says_so(tmp_path: Path) -> None:
    trial, notes = _trial(tmp_path, "requests: 5000, max_duration_s: 1", {"service_ms": 20})
    (note,) = [text for text in trial.notes if text.startswith("ended by time, not by count: ")]
    assert note.endswith(" of 5000 requests within max_duration_s = 1")
    assert f"{trial.trial_id}: {note}" in notes
    assert trial.is_feasible


@pytest.mark.heavy
def test_a_load_that_ended_for_its_errors_is_not_feasible(tmp_path: Path) -> None:
    workload = "requests: 5000, max_duration_s: 30, max_error_frac: 0.2"
    trial, _ = _trial(tmp_path, workload, {"error_frac": 0.9})
    assert trial.outcome == "ok"
    assert not trial.is_feasible
    assert trial.summary is not None
    (doubt,) = [each for each in trial.summary.doubts if each.kind == "ended_early"]
    assert doubt.sentence in trial.violations
    assert "more than max_error_frac = 0.2 allows; 5000 were planned" in doubt.sentence
    assert not [text for text in trial.notes if "ended by time" in text]


@pytest.mark.heavy
def test_a_trial_whose_worker_crashed_is_in_doubt(tmp_path: Path) -> None:
    trial, _ = _trial(tmp_path, "requests: 60, max_duration_s: 30", {"crash_after": 40})
    assert trial.summary is not None
    (doubt,) = [each for each in trial.summary.doubts if each.kind == "worker_crashes"]
    assert doubt.sentence.startswith("a worker crashed once: ")
