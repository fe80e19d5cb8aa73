"""`dyno serve` in the foreground."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from engines.api import EngineSpec
from engines.server import serve
from engines.server.serve import ServeOptions, warn_if_stale
from harness.cli.main import run
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

DYNO = [sys.executable, "-m", "harness", "serve"]
ROOT = Path(__file__).parents[3]


def dyno_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DYNO, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize(("number", "given"), [(signal.SIGTERM, "serving.properties"), (signal.SIGINT, ".")])
def test_it_serves_a_file_or_its_folder_until_a_signal_and_ends_with_0(
    tmp_path: Path, number: signal.Signals, given: str
) -> None:
    (tmp_path / "serving.properties").write_text("option.entryPoint=engines.fake\nload_on_devices=-1\n")
    argv = [*DYNO, "--properties", str(tmp_path / given), "--port", "0", "--name", "bench"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        url = process.stderr.readline().removeprefix("listening on ").strip()
        with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
            eventually(lambda: client.get("/ping").status_code == 200)
            answer = client.post("/predictions/bench", json={"inputs": "hello there"})
        assert answer.json() == {"generated_text": "hello there"}
        process.send_signal(number)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "option.entryPoint=engines.fake\nbatch_sise=2",
            "unknown key 'batch_sise'; did you mean 'batch_size'",
        ),
        ("option.entryPoint=engines.nothing", "unknown engine 'nothing'"),
        ("option.entryPoint=engines.fake\noption.oom_on_load=true", "ran out of memory"),
        ("option.entryPoint=engines.transformers\noption.model_id=./nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_served_is_one_sentence_and_status_3(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "serving.properties").write_text(text + "\nload_on_devices=-1\n")
    done = dyno_serve("--properties", str(tmp_path / "serving.properties"), "--port", "0")
    assert done.returncode == 3
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_and_a_taken_port(tmp_path: Path) -> None:
    missing = dyno_serve("--properties", str(tmp_path / "none"))
    assert (missing.returncode, missing.stderr.count("\n")) == (3, 1)
    assert "cannot read it" in missing.stderr
    (tmp_path / "serving.properties").write_text("option.entryPoint=engines.fake\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = dyno_serve("--properties", str(tmp_path / "serving.properties"), "--port", port)
    assert refused.returncode == 3
    assert refused.stderr.startswith(f"dyno: port {port} on 127.0.0.1 is in use")


@pytest.mark.parametrize(
    ("named", "asked", "order"),
    [("", "", "fifo"), ("0.36.0-lmi20", "", "heap"), ("0.36.0-lmi20", "0.29.0", "djl-fifo"), ("", "0.36.0", "heap")],
)
def test_it_takes_requests_as_the_named_container_does(
    named: str, asked: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ServeOptions] = []
    monkeypatch.setattr("harness.cli.serve.serve", served.append)
    if named:
        (tmp_path / "recommendation.json").write_text(json.dumps({"container": named}))
    assert run(["serve", str(tmp_path), *(["--container", asked] if asked else [])]) == 0
    assert [options.queue_order for options in served] == [order]


def test_a_container_that_is_not_known_and_a_script_that_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(tmp_path), "--container", "0.99"]) == 2
    assert "unknown container '0.99'" in capsys.readouterr().err
    (tmp_path / "start.sh").write_text("")
    assert run(["serve", str(tmp_path / "start.sh"), "--container", "0.36.0"]) == 2
    assert "--container belongs to serving.properties" in capsys.readouterr().err


def test_help_has_examples() -> None:
    done = dyno_serve("--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout


def test_an_environment_that_its_list_has_left_behind_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve, "why_stale", lambda engine, python: f"{engine} is old" if engine == "fake" else "")
    with caplog.at_level("WARNING", "dyno.server"):
        warn_if_stale(EngineSpec(engine="fake", model_dir=Path()))
        warn_if_stale(EngineSpec(engine="t5", model_dir=Path()))
    assert caplog.messages == ["fake is old"]
