"""`dyno tune` as a user runs it, on the fake engine: ends, is interrupted, resumes, refuses a second writer.

What a kill leaves behind: tests/end_to_end/test_hygiene.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engines.adapters.fake import FakeEngine
from engines.api import EngineSpec
from engines.foreign_servers.djl.served import WORKER_VARIABLE
from harness.store.reader import read_run

pytestmark = pytest.mark.heavy

FAKE = Path(__file__).resolve().parents[3] / "scenarios" / "smoke" / "fake-tiny.yaml"
DEADLINE_S = 1200
"""A net for what hangs, no claim about speed: with ten busy processes a core even a start takes half a minute."""


def _command(results: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "harness", "tune", str(FAKE), "--results", str(results), *more]


def _tune(results: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(results, *more), capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def _start(results: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(_command(results, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"ended without saying {text!r}")


def _run_folder(results: Path) -> Path:
    (root,) = (results / "fake-tiny").iterdir()
    return root


def test_a_whole_run_ends_in_a_verified_file_and_the_next_command(tmp_path: Path) -> None:
    done = _tune(tmp_path, "--set", "space.0.workers=1", "--json")
    assert done.returncode in (0, 4), done.stderr
    answer = json.loads(done.stdout)
    root = _run_folder(tmp_path)
    assert answer["run"] == str(root)
    assert answer["stop"] == "exhausted"
    assert done.returncode == (0 if answer["verification"]["is_inside"] else 4)
    properties = Path(answer["files"][0])
    assert properties.name == "serving.properties"
    assert (properties.parent / "verification.json").is_file()
    assert answer["next"].startswith("dyno serve --properties")
    assert "[2/4]" in done.stderr
    assert len(read_run(root).trials) == 2, "the verification is no trial of the search"
    assert json.loads((root / "search.json").read_text())["stop"] == "exhausted"


def test_a_scenario_for_djl_serving_ends_in_its_model_folder_started_and_measured(tmp_path: Path) -> None:
    scenario = tmp_path / "for-djl.yaml"
    scenario.write_text(
        "name: for-djl\nmodel: {bundled: seq2seq}\nworkload:\n  load: {kind: closed, users: 1}\n  warmup_requests: 2\n"
        "  requests: 20\nquality: {prompts: 4}\nspace: [{engine: t5, threads: 1}]\n"
        "objectives: [{metric: latency_p50_ms, goal: minimize}]\nrecommend: {container: 0.31.0}\n"
        "search: {sampler: grid, trials: 1, max_minutes: 5, confirm: {finalists: 0}}\n"
    )
    env = {name: value for name, value in os.environ.items() if name != WORKER_VARIABLE}
    command = [sys.executable, "-m", "harness", "tune", str(scenario), "--results", str(tmp_path / "runs"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=env)
    assert done.returncode in (0, 4), done.stderr
    found = json.loads(done.stdout)["verification"]
    assert found["trial"]["outcome"] == "ok", found["sentence"]
    assert found["trial"]["queue_order"] == "djl-fifo"
    assert "(started under our own server with its queue (first in, first out): " in found["sentence"]


def test_an_attached_endpoint_is_measured_and_chosen_though_no_file_can_say_it(tmp_path: Path) -> None:
    spec = EngineSpec(engine="fake", model_dir=tmp_path, options={"service_ms": 2})
    scenario = tmp_path / "attached.yaml"
    with FakeEngine().launch(spec, tmp_path / "server", 60.0) as running:
        url, model = running.endpoint.url, running.endpoint.model_name
        base = url.removesuffix(f"/predictions/{model}")
        scenario.write_text(
            "name: attached\nworkload:\n  load: {kind: closed, users: 1}\n  warmup_requests: 2\n  requests: 20\n"
            "quality: {prompts: 4}\n"
            f"space:\n  - engine: attach\n    options: {{url: '{base}', model_name: '{model}'}}\n"
            "objectives: [{metric: latency_p50_ms, goal: minimize}]\n"
            "search: {sampler: grid, trials: 1, max_minutes: 2, confirm: {finalists: 0}}\n"
        )
        command = [
            sys.executable,
            "-m",
            "harness",
            "tune",
            str(scenario),
            "--results",
            str(tmp_path / "runs"),
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["files"] == []
    assert answer["recommendation"]["trial"]["candidate"]["engine"] == "attach"
    assert answer["next"] == f"dyno report {answer['run']}"
    assert "its server is configured elsewhere, nothing to write" in done.stderr


def test_interrupted_then_resumed_ends_with_every_candidate_once(tmp_path: Path) -> None:
    first = _start(tmp_path, "--no-verify")
    _wait_for(first, "trial 2")
    _wait_for(first, "launch")  # from its launch on, a trial that ends early is recorded
    first.send_signal(signal.SIGSTOP)  # or trial 2 may have ended before the second one was refused
    second = _tune(tmp_path)
    assert second.returncode == 3
    assert f"process {first.pid} is writing this run" in second.stderr
    first.send_signal(signal.SIGINT)
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=DEADLINE_S)
    assert first.returncode == 130
    root = _run_folder(tmp_path)
    assert err.splitlines()[-2:] == [
        f"interrupted; everything finished is kept in {root}",
        "Next: the same command again continues from there (--new begins again)",
    ]
    assert [trial.outcome for trial in read_run(root).trials] == ["ok", "interrupted"]

    third = _tune(tmp_path, "--no-verify")
    assert third.returncode == 0, third.stderr
    assert f"resuming {root}" in third.stderr
    assert third.stdout.splitlines()[-1].startswith("Next: dyno serve --properties ")
    trials = read_run(_run_folder(tmp_path)).trials
    assert [trial.number for trial in trials] == [1, 2, 3, 4, 5]
    measured = [trial.candidate.candidate_id for trial in trials if trial.outcome == "ok"]
    assert len(measured) == len(set(measured)) == 4
