"""Which run a search goes on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import EnvironmentFault
from harness.records import Candidate, Trial
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.scenario.schema import Scenario
from harness.store.reader import read_run
from harness.store.run_folder import find_unfinished, finish_run, open_run
from harness.store.writer import RunWriter

pytestmark = pytest.mark.heavy

TRIAL = Trial(trial_id="t0001-x", number=1, candidate=Candidate(block=0, engine="fake"), outcome="ok")


def _resolved(trials: int = 3, path: str = "/a/s.yaml") -> ResolvedScenario:
    of = Scenario.model_validate(
        {"name": "s", "space": [{"engine": "fake"}], "search": {"trials": trials}, "workload": {"prompts": "p.jsonl"}}
    )
    return resolve(of, Path(path))


def _open(results: Path, is_new: bool = False, notes: list[str] | None = None) -> RunWriter:
    return open_run(_resolved(), results, is_new, ([] if notes is None else notes).append)


def test_an_unfinished_run_of_the_same_scenario_is_resumed_with_its_trials(tmp_path: Path) -> None:
    notes: list[str] = []
    with _open(tmp_path, notes=notes) as writer:
        root = writer.layout.root
        writer.append_trial(TRIAL)
    with _open(tmp_path, notes=notes) as again:
        assert again.layout.root == root
        assert read_run(root).trials == (TRIAL,)
    assert notes == [f"run {root}", f"resuming {root}", "1 trials are there; --new would begin again"]


def test_a_finished_run_another_scenario_and_new_begin_a_new_folder(tmp_path: Path) -> None:
    writer = _open(tmp_path)
    writer.close()
    assert find_unfinished(_resolved(trials=4), tmp_path) == []
    assert find_unfinished(_resolved(path="/b/s.yaml"), tmp_path) == [], "other prompts, though the same words"
    assert find_unfinished(_resolved(), tmp_path) == [writer.layout.root]
    fresh = _open(tmp_path, is_new=True)
    fresh.close()
    assert fresh.layout.root != writer.layout.root
    for root in (writer.layout.root, fresh.layout.root):
        finish_run(root, "budget", "trial budget")
    assert find_unfinished(_resolved(), tmp_path) == []


def test_an_unfinished_run_of_another_machine_class_is_left_alone(tmp_path: Path) -> None:
    with _open(tmp_path) as writer:
        root = writer.layout.root
    stored = json.loads((root / "run.json").read_text())
    stored["machine"]["cores"] += 62
    (root / "run.json").write_text(json.dumps(stored))
    notes: list[str] = []
    with _open(tmp_path, notes=notes) as other:
        assert other.layout.root != root
    cores = stored["machine"]["cores"]
    assert notes[0] == (
        f"{root} is unfinished, but of another machine class (cores {cores} and {cores - 62}): a new run begins"
    )


def test_a_run_that_is_being_written_is_left_alone_with_one_sentence(tmp_path: Path) -> None:
    writer = _open(tmp_path)
    with writer, pytest.raises(EnvironmentFault, match=r"process \d+ is writing this run; wait until it ends"):
        _open(tmp_path)


def test_a_damaged_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "s" / "broken").mkdir(parents=True)
    (tmp_path / "s" / "broken" / "run.json").write_text("{")
    assert find_unfinished(_resolved(), tmp_path) == []
