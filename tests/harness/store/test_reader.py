"""Reading runs: torn lines, damage, newer formats, and finding the run that is meant."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.errors import EnvironmentFault, UsageError
from harness.store.reader import find_run, read_requests, read_run
from harness.store.writer import RunWriter
from tests.harness.store.trials import a_manifest, a_trial


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with RunWriter.create(tmp_path, a_manifest()) as writer:
        writer.append_trial(a_trial(0))
        writer.append_trial(a_trial(1))
    return writer.layout.root


def _run(results: Path, scenario: str, name: str) -> Path:
    root = results / scenario / name
    root.mkdir(parents=True)
    (root / "run.json").write_text("{}")
    return root


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_left_out_with_a_note(root: Path, cut: int) -> None:
    path = root / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    run = read_run(root)
    assert [trial.number for trial in run.trials] == [0]
    assert f"{path}:2: the last line is torn" in run.notes[0]


def test_a_run_without_trials_is_empty(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, a_manifest()) as writer:
        assert read_run(writer.layout.root).trials == ()


def test_a_damaged_line_names_its_place(root: Path) -> None:
    path = root / "trials.jsonl"
    path.write_bytes(b"not json\n" + path.read_bytes())
    with pytest.raises(EnvironmentFault, match=r"trials\.jsonl:1: damaged"):
        read_run(root)


def test_a_line_that_is_no_trial_names_the_field(root: Path) -> None:
    path = root / "trials.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**first, "number": "one"}) + "\n")
    with pytest.raises(EnvironmentFault, match=r"trials\.jsonl:1\.number: expected a valid integer, got 'one'"):
        read_run(root)


@pytest.mark.parametrize("file", ["run.json", "trials.jsonl"])
def test_a_newer_format_is_refused(root: Path, file: str) -> None:
    text = (root / file).read_text().replace('"format": 1', '"format": 2').replace('"format":1', '"format":2')
    (root / file).write_text(text)
    with pytest.raises(EnvironmentFault, match="written in format 2, this dynamometer reads up to 1"):
        read_run(root)


def test_a_damaged_manifest_is_one_sentence(root: Path) -> None:
    (root / "run.json").write_text("{")
    with pytest.raises(EnvironmentFault, match=r"run\.json: damaged"):
        read_run(root)


def test_what_is_not_stored_is_a_usage_error(root: Path) -> None:
    with pytest.raises(UsageError, match="no raw records stored for trial 't9'"):
        read_requests(root, "t9")


def test_find_run_by_latest_scenario_folder_and_path(tmp_path: Path) -> None:
    old = _run(tmp_path, "alpha", "20260101T000000Z-aaaaaaaaaa")
    new = _run(tmp_path, "alpha", "20260301T000000Z-bbbbbbbbbb")
    other = _run(tmp_path, "beta", "20260201T000000Z-cccccccccc")
    assert find_run(tmp_path, None) == new
    assert find_run(tmp_path, "latest") == new
    assert find_run(tmp_path, "alpha") == new
    assert find_run(tmp_path, "beta") == other
    assert find_run(tmp_path, old.name) == old
    assert find_run(tmp_path, str(other)) == other


def test_runs_of_one_second_are_ordered_by_creation(tmp_path: Path) -> None:
    first = _run(tmp_path, "alpha", "20260101T000000Z-bbbbbbbbbb")
    second = _run(tmp_path, "alpha", "20260101T000000Z-aaaaaaaaaa")
    os.utime(first / "run.json", ns=(1, 1))
    assert find_run(tmp_path, None) == second


def test_a_run_that_does_not_exist_says_what_does(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run here yet; start one with: dyno tune"):
        find_run(tmp_path, None)
    _run(tmp_path, "alpha", "20260101T000000Z-aaaaaaaaaa")
    with pytest.raises(UsageError, match=r"(?s)run 'gamma': .*; there are:\n  alpha: 1 run, newest 2026"):
        find_run(tmp_path, "gamma")
    with pytest.raises(UsageError, match="did you mean 'latest'"):
        find_run(tmp_path, "latestt")
