"""DJL Serving: the folder it gets, the commands that start it, and how its health is read."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.api import EngineSpec
from engines.errors import LaunchFailed, ModelInvalid, SpecInvalid, Unavailable
from engines.foreign_servers.carried_weights import Conversion
from engines.foreign_servers.djl import folder as djl_folder
from engines.foreign_servers.djl.engine import DjlEngine, docker_argv
from engines.foreign_servers.djl.folder import SPEC_FILE, backend_spec, write_djl_folder
from engines.foreign_servers.djl.health import Health, health, last_words
from engines.models.cache import carried
from engines.processes.threads import usable_cores
from engines.serving_properties.java_text import read_properties
from tests.waiting import eventually

MODEL_DIR = Path(__file__).parents[4] / "scenarios" / "assets" / "flan-t5-bench"
PROMPTS = MODEL_DIR.with_name("prompts") / "tasks.jsonl"
ROOT = Path(__file__).parents[4]
RECORDED = Path(__file__).with_name("recorded")
STAND_IN = Path(__file__).with_name("stand_in") / "serving.py"


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """The stand-in of `djl-serving`."""
    path = tmp_path / "bin" / "djl-serving"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -u "{STAND_IN}" "$@"\n')
    path.chmod(0o755)
    return path


def _spec(command: Path, **changes: Any) -> EngineSpec:
    options = {"command": str(command), **changes.pop("options", {})}
    spec = EngineSpec(
        engine="djl", model_dir=MODEL_DIR, batch_size=4, max_batch_delay_ms=20, threads=1, options=options
    )
    return replace(spec, **changes)


@pytest.mark.heavy
def test_the_folder_serves_the_measured_backend(command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a run's folder is named from there, as `dyno tune` does by default
    with DjlEngine().launch(_spec(command, dtype="int8"), Path("work"), 60.0) as running:
        known = [json.loads(line) for line in PROMPTS.read_text().splitlines()[:4]]
        ask = {"inputs": [each["prompt"] for each in known], "parameters": {"max_new_tokens": 64}}
        with httpx.Client(timeout=60.0, trust_env=False) as client:
            answer = client.post(running.endpoint.url, json=ask)
            wrong = client.post(running.endpoint.url, json={"inputs": "x", "parameters": {"max_new_token": 1}})
        assert answer.status_code == 200, answer.text
        assert [each["generated_text"] for each in answer.json()] == [each["reference"] for each in known]
        assert wrong.status_code == 400
        assert "did you mean 'max_new_tokens'" in wrong.json()["error"]
        assert running.failure() is None
        assert running.facts.effective_dtype


@pytest.mark.heavy
def test_a_model_that_cannot_be_loaded_fails_the_launch(command: Path, tmp_path: Path) -> None:
    launch = DjlEngine().launch(_spec(command, tensor_parallel_degree=5), tmp_path / "work", 60.0)
    with (
        pytest.raises(LaunchFailed, match=r"failed to load \(the server ended with status 1\)(.|\n)*parallel_degree"),
        launch,
    ):
        pass
    with pytest.raises(ModelInvalid), DjlEngine().launch(_spec(command, model_dir=tmp_path), tmp_path / "none", 60.0):
        pass
    assert not (tmp_path / "none").exists()


def test_what_the_folder_holds(command: Path, tmp_path: Path) -> None:
    spec = _spec(command, workers=2, options={"exact_head": True})
    folder = write_djl_folder(backend_spec(spec), tmp_path / "model")
    values = read_properties(folder / "serving.properties")
    assert values["option.entryPoint"] == "model.py"
    assert values["option.rolling_batch"] == "disable"
    assert (values["minWorkers"], values["maxWorkers"], values["batch_size"]) == ("2", "2", "4")
    assert (values["option.threads"], set(values) & {"option.exact_head", "option.command"}) == ("1", set())
    inner = json.loads((folder / SPEC_FILE).read_text())
    assert (inner["engine"], inner["batch_size"], inner["threads"], inner["options"]) == (
        "t5",
        4,
        1,
        {"exact_head": True},
    )
    assert {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()} == {
        "numpy",
        "safetensors",
        "tokenizers",
    }
    assert (folder / "engines" / "t5" / "libt5k.so").is_file()
    assert not list(folder.rglob("__pycache__"))
    assert (folder / "model.safetensors").stat().st_size == (MODEL_DIR / "model.safetensors").stat().st_size
    with pytest.raises(SpecInvalid, match="option backend is 'vllm'"):
        backend_spec(replace(spec, options={"backend": "vllm"}))


def test_an_engine_that_converts_finds_its_weights_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.bin").write_text("weights")
    monkeypatch.setitem(
        djl_folder.CONVERSIONS, "ctranslate2", lambda *_: Conversion(name="ct2", made=made, form="f-v1")
    )
    spec = EngineSpec(engine="djl", model_dir=MODEL_DIR, options={"backend": "ctranslate2"})
    folder = write_djl_folder(backend_spec(spec), tmp_path / "model")
    assert (folder / "ct2" / "model.bin").read_text() == "weights"
    assert carried(folder / "ct2", "f-v1") == folder / "ct2"
    assert (carried(folder / "ct2", "f-v2"), carried(folder / "onnx", "f-v1")) == (None, None)
    assert (folder / "config.json").is_file()
    assert not list(folder.glob("*.safetensors")), "nobody reads the unconverted weights there"


def test_the_threads_are_those_that_are_measured() -> None:
    """Also where the scenario left them open: each worker's equal share, whatever the container's OMP_NUM_THREADS."""
    spec = EngineSpec(engine="djl", model_dir=MODEL_DIR, workers=2)
    assert backend_spec(spec).threads == max(1, usable_cores() // 2)


def test_our_linter_finds_the_folder_clean(command: Path, tmp_path: Path) -> None:
    from harness.properties.lint.findings import lint
    from harness.properties.lint.records import model_facts

    folder = write_djl_folder(backend_spec(_spec(command)), tmp_path / "model")
    script = (folder / "engines" / "foreign_servers" / "djl" / "handler.py").read_text()
    for container in ("0.27.0", "0.29.0", "0.36.0-lmi20"):
        findings = lint((folder / "serving.properties").read_text(), container, model_facts(folder), script)
        assert [finding.message for finding in findings if finding.severity == "error"] == []


@pytest.mark.heavy
def test_the_docker_command_mounts_the_folder_and_stays_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    argv = docker_argv("deepjavalibrary/djl-serving:0.36.0-lmi", tmp_path, 9000, "dyno-1")
    assert argv == [
        "docker", "run", "--rm", "--init", "--name", "dyno-1", "-p", "127.0.0.1:9000:8080", "-v",
        f"{tmp_path.resolve()}:/opt/ml/model:ro", "-e", "SERVING_LOAD_MODELS=model::Python=/opt/ml/model",
        "-e", "OPT_OUT_TRACKING=true", "-e", "SERVING_PROMETHEUS=true",
        "deepjavalibrary/djl-serving:0.36.0-lmi", "serve",
    ]  # fmt: skip
    with pytest.raises(SpecInvalid, match="expected an image such as"):
        docker_argv("--privileged", tmp_path, 9000, "dyno-1")


def _recorded(status: str, *workers: str) -> list[dict[str, Any]]:
    """The recorded description of the model, with these states."""
    answers = {each["name"]: each["answer"] for each in json.loads((RECORDED / "http.json").read_text())[:20]}
    described: list[dict[str, Any]] = json.loads(answers["model described"]["body"])
    model = described[0]["models"][0]
    model["status"] = status
    model["workerGroups"][0]["workers"] = [{"id": n, "status": worker} for n, worker in enumerate(workers, 1)]
    return described


@pytest.mark.parametrize(
    ("ping", "described", "expected"),
    [
        (None, [], Health(is_ready=False)),
        (200, _recorded("Unhealthy"), Health(is_ready=False)),
        (200, _recorded("Healthy", "READY"), Health(is_ready=False)),
        (200, _recorded("Healthy", "READY", "UNLOADING"), Health(is_ready=False)),
        (200, _recorded("Healthy", "READY", "READY"), Health(is_ready=True)),
        (200, _recorded("Healthy", "READY", "READY")[0]["models"][0], Health(is_ready=True)),
        (200, "not what was promised", Health(is_ready=False)),
        (200, [{"models": 3}, 4], Health(is_ready=False)),
        (
            200,
            _recorded("FAILED", "READY", "READY"),
            Health(is_ready=False, failure="GET /models answers FAILED: the model failed"),
        ),
        (500, [], Health(is_ready=False, failure="/ping answers 500: the model failed")),
    ],
)
def test_ready_means_every_worker_is(ping: int | None, described: object, expected: Health) -> None:
    assert health(ping, described, workers=2) == expected


def test_the_last_words_are_the_workers() -> None:
    lines = ["INFO  PyProcess W-12-model-stdout: loading", "WARN  PyProcess W-12-model-stderr: no memory left"]
    after = ["java.io.IOException: Python worker disconnected.", "  at ai.djl.X.y(X.java:1)"]
    assert last_words("\n".join([*lines, *after])) == "loading\nno memory left"
    assert last_words("Exception in thread main\n") == "Exception in thread main"
    assert last_words("") == ""


@pytest.mark.heavy
def test_a_worker_that_dies_without_a_word_while_it_is_measured_ends_the_trial(command: Path, tmp_path: Path) -> None:
    with DjlEngine().launch(_spec(command, workers=2), tmp_path / "work", 60.0) as running:
        assert running.failure() is None
        workers = [pid for pid in running.pids if "worker.py" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        asked = {"inputs": "x", "parameters": {"max_new_tokens": 1}}
        with httpx.Client(timeout=60.0, trust_env=False) as client:
            while client.post(running.endpoint.url, json=asked).status_code == 200:
                pass
        failure = running.failure()
    assert isinstance(failure, LaunchFailed)
    assert re.search(r"/ping answers 500: the model failed; its log \S+ is empty$", str(failure))


@pytest.mark.heavy
def test_two_servers_at_once_have_temporary_folders_of_their_own(command: Path, tmp_path: Path) -> None:
    with (
        DjlEngine().launch(_spec(command, options={"backend": "fake"}), tmp_path / "one", 60.0) as one,
        DjlEngine().launch(_spec(command, options={"backend": "fake"}), tmp_path / "two", 60.0) as two,
    ):
        folders = []
        for running in (one, two):
            values = Path(f"/proc/{running.pids[0]}/environ").read_text().split("\0")
            given = dict(value.split("=", 1) for value in values if "=" in value)
            assert given["OPT_OUT_TRACKING"] == "true"
            assert given["PYTHON_EXECUTABLE"] == sys.executable
            folders.append(re.search(r"-Djava.io.tmpdir=(\S+)", given["JAVA_OPTS"])[1])  # type: ignore[index]
        assert folders[0] != folders[1]
        assert all(len(f"{folder}/djl_sock.19000") < 108 for folder in folders), "a socket's name may have 107 bytes"
        pids = (*one.pids, *two.pids)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not [folder for folder in folders if Path(folder).exists()]


@pytest.mark.heavy
def test_nothing_is_left_when_dyno_is_killed(command: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from engines.api import EngineSpec\n"
        "from engines.foreign_servers.djl.engine import DjlEngine\n"
        f"spec = EngineSpec(engine='djl', model_dir=Path({str(MODEL_DIR)!r}),"
        f" options={{'command': {str(command)!r}, 'backend': 'fake'}})\n"
        f"with DjlEngine().launch(spec, Path({str(tmp_path / 'work')!r}), 60.0) as running:\n"
        "    print(*running.pids, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT) as dyno:
        assert dyno.stdout
        pids = [int(pid) for pid in dyno.stdout.readline().split()]
        assert len(pids) >= 2, "the server and its worker"
        dyno.kill()
    eventually(lambda: not [pid for pid in pids if _runs(pid)], "all gone")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.heavy
def test_without_djl_or_docker_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DJL_SERVING_HOME", raising=False)
    assert "no DJL Serving found: install it" in DjlEngine().probe().reason
    spec = EngineSpec(engine="djl", model_dir=MODEL_DIR)
    with pytest.raises(Unavailable, match="no DJL Serving found"), DjlEngine().launch(spec, tmp_path, 5.0):
        pass
    wanted = replace(spec, options={"command": "/nowhere/djl"})
    with pytest.raises(Unavailable, match="'/nowhere/djl' is no program"), DjlEngine().launch(wanted, tmp_path, 5.0):
        pass
    with pytest.raises(Unavailable, match="docker not found"):
        docker_argv("image", tmp_path, 9000, "name")
