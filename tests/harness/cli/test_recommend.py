"""`dyno recommend` on stored runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.main import run as dyno
from harness.properties.write import Written
from harness.recommendation import Recommendation
from harness.store.reader import Run
from harness.trial.verify import Verification
from tests.harness.choose.runs import ON_DISK, candidate, conversion, store, trial


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    best = trial(2, candidate("ctranslate2"), (20.1, 19.8, 20.6), converted_dir=conversion(tmp_path / "cache"))
    store(root, [trial(1, candidate(), (61.2, 60.0, 62.0)), best], resolved=ON_DISK)
    return root


def test_the_choice_its_reasons_its_file_and_the_next_command(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dyno(["recommend", "made", "--results", str(results)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Recommendation: ctranslate2 fp32, batch 1")
    assert "transformers fp32, batch 1, 1 worker (t0001-" in shown.out
    assert "slower by 41.1 ms (+204.5 %)" in shown.out
    (path,) = results.rglob("serving.properties")
    assert f"wrote {path}" in shown.err
    assert shown.out.strip().splitlines()[-1] == f"Next: dyno serve --properties {path.parent}"


def test_a_stand_in_model_has_no_folder_to_serve_and_the_next_command_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"model": {"kind": "shape", "value": "flan-t5-base", "seed": 0}}
    store(tmp_path, [trial(1, candidate("ctranslate2"), (20.1, 19.8, 20.6))], resolved=shape)
    assert dyno(["recommend", "--results", str(tmp_path)]) == 0
    assert "recommendation --model-dir MODEL_FOLDER\n" in capsys.readouterr().out


def test_a_container_that_does_not_exist_is_said_before_anything(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dyno(["recommend", "--results", str(results), "--container", "dynamometer-9"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "dynamometer-9" in shown.err


def test_json_is_nothing_but_itself(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["recommend", "--results", str(results), "--json", "--container", "0.36.0-lmi20", "--out", str(out)]
    assert dyno(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["recommendation"]["trial"]["candidate"]["engine"] == "ctranslate2"
    assert (out / "model.py").exists()
    assert str(out / "serving.properties") in answer["files"]


def test_nothing_feasible_is_exit_4_with_what_came_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, [trial(1, candidate(), (61.2, 60.0, 62.0), violations=("latency_p50_ms 61.2 ms > 50",))])
    assert dyno(["recommend", "--results", str(tmp_path)]) == 4
    assert "which broke latency_p50_ms 61.2 ms > 50" in capsys.readouterr().err


def test_a_container_that_cannot_serve_it_is_exit_2(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dyno(["recommend", "--results", str(results), "--container", "0.20.0"]) == 2
    assert "choose 0.22.1 or newer" in capsys.readouterr().err
    assert not list(results.rglob("serving.properties"))


@pytest.mark.parametrize(("is_inside", "code"), [(True, 0), (False, 4)])
def test_verify_measures_the_written_file_and_its_verdict_is_the_exit_code(
    is_inside: bool, code: int, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(
        run: Run, recommendation: Recommendation, written: Written, progress: Callable[[str], None]
    ) -> Verification:
        assert "option.entryPoint=engines.ctranslate2" in written.properties_path.read_text()
        progress("starting")
        return Verification(trial=recommendation.trial, is_inside=is_inside, sentence="the sentence")

    monkeypatch.setattr("harness.cli.recommend.verify", verify)
    assert dyno(["recommend", "--results", str(results), "--verify"]) == code
    shown = capsys.readouterr()
    assert "the sentence" in shown.out
    assert "starting" in shown.err


def test_the_folder_of_a_container_is_verified_as_it_was_written(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(run: Run, recommendation: Recommendation, written: Written, progress: object) -> Verification:
        assert (written.properties_path.parent / "ct2" / "model.bin").is_file()
        assert written.container == "0.36.0-lmi20"
        return Verification(trial=recommendation.trial, is_inside=True, sentence="reproduced (started somehow)")

    monkeypatch.setattr("harness.cli.recommend.verify", verify)
    assert dyno(["recommend", "--results", str(results), "--verify", "--container", "0.36.0-lmi20"]) == 0
    assert "reproduced (started somehow)" in capsys.readouterr().out


def test_a_container_s_own_rolling_batch_cannot_be_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, [trial(1, candidate("vllm"), (20.1, 19.8, 20.6))], resolved=ON_DISK)
    assert dyno(["recommend", "--results", str(tmp_path), "--verify", "--container", "0.36.0-lmi20"]) == 2
    assert "0.36.0-lmi20 runs vllm fp32, batch 1, 1 worker as its own rolling batch" in capsys.readouterr().err


STOPPED = """
import os, signal, sys, time
import harness.cli.recommend
from harness.cli.main import run

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup leaves it ignored

def stopped(*_):
    os.kill(os.getpid(), int(sys.argv[2]))
    time.sleep(5)

harness.cli.recommend.verify = stopped
sys.exit(run(["recommend", "--results", sys.argv[1], "--verify"]))
"""
"""A verification that gets a signal in the middle: a process of its own, so that no signal can reach the test run."""


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_verification_that_is_stopped_says_so(number: signal.Signals, results: Path) -> None:
    command = [sys.executable, "-c", STOPPED, str(results), str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert "dyno: interrupted" in done.stderr


def test_a_container_gets_the_best_that_it_can_serve_and_the_cost_is_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rolling = candidate("ctranslate2", rolling_batch="auto")
    best = trial(3, candidate("ctranslate2"), (20.0, 19.9, 20.1), converted_dir=conversion(tmp_path / "cache"))
    store(
        tmp_path / "results",
        [trial(1, candidate("accelerate"), (10.0, 9.9, 10.1)), trial(2, rolling, (15.0, 14.9, 15.1)), best],
        resolved=ON_DISK,
    )
    assert dyno(["recommend", "--results", str(tmp_path / "results"), "--container", "0.36.0-lmi20"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Recommendation: ctranslate2 fp32, batch 1, 1 worker\n")
    note = " ".join(shown.err.split())
    assert (
        "cannot serve the best of all, accelerate fp32, batch 1, 1 worker: accelerate exists in our own server" in note
    )
    assert "latency_p50_ms 20 ms [19.9, 20.1] against 10 ms [9.9, 10.1] (+100.0%)" in note


def test_a_rolling_batch_is_refused_with_the_best_static_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rolling = trial(1, candidate("ctranslate2", rolling_batch="auto"), (10.0, 9.9, 10.1))
    best = trial(2, candidate("ctranslate2"), (20.0, 19.9, 20.1), converted_dir=conversion(tmp_path / "cache"))
    store(tmp_path / "results", [rolling, best], resolved=ON_DISK)
    assert dyno(["recommend", "--results", str(tmp_path / "results"), "--container", "0.36.0-lmi20"]) == 0
    note = " ".join(capsys.readouterr().err.split())
    assert "DJL's server hands whole batches to ctranslate2: its rolling batch exists in our own server only" in note
    assert "The best measured candidate that it can serve is ctranslate2 fp32, batch 1, 1 worker: " in note


def test_a_container_that_can_serve_nothing_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, [trial(1, candidate("accelerate"), (10.0, 9.9, 10.1))])
    assert dyno(["recommend", "--results", str(tmp_path), "--container", "0.36.0-lmi20"]) == 2
    assert "accelerate fp32, batch 1, 1 worker: accelerate exists in our own server only" in capsys.readouterr().err


def test_the_folder_of_a_compose_file_is_whole_too(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["--container", "0.36.0-lmi20", "--format", "docker-compose", "--out", str(out)]
    assert dyno(["recommend", "--results", str(results), *asked]) == 0
    assert {path.name for path in out.iterdir()} == {
        "compose.yaml", "model.py", "requirements.txt", "config.json", "generation_config.json", "tokenizer.json",
        "ct2",
    }  # fmt: skip
    assert f"Next: docker compose -f {out / 'compose.yaml'} up" in capsys.readouterr().out
    asked[3] = "kubernetes"
    assert dyno(["recommend", "--results", str(results), *asked]) == 0
    noted = " ".join(capsys.readouterr().err.split())
    assert "Note: the PersistentVolumeClaim 'model' must hold the folder of this file" in noted
