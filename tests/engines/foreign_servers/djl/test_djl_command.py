"""The command that starts DJL Serving: the folder alone decides what is served, nothing of the user's is changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engines.errors import LaunchFailed, Unavailable
from engines.foreign_servers.djl import engine as djl
from engines.foreign_servers.djl.command import IMAGE_JVM, djl_command, started_with
from engines.foreign_servers.djl.engine import RunningDjl, endpoint_at, wait_for_workers
from engines.foreign_servers.djl.health import last_words
from engines.processes.server_process import Command, ServerProcess, free_port
from engines.serving_properties.java_text import read_properties


def _program(tmp_path: Path) -> Path:
    program = tmp_path / "release" / "bin" / "serving"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.touch()
    return program


def _command(tmp_path: Path, work: Path, temp_dir: Path = Path("/t/dyno")) -> Command:
    work.mkdir(parents=True, exist_ok=True)
    return djl_command(_program(tmp_path), "/usr/bin/python3.11", work / "model", work, 9000, temp_dir)


def test_what_the_server_would_read_from_the_environment_is_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SERVING_BATCH_SIZE", "OPTION_DTYPE", "HF_MODEL_ID", "PREDICT_TIMEOUT", "PYTHONPATH", "HF_TOKEN"):
        monkeypatch.setenv(name, "1")
    command = _command(tmp_path, tmp_path / "work")
    assert {"SERVING_BATCH_SIZE", "OPTION_DTYPE", "HF_MODEL_ID", "PREDICT_TIMEOUT", "PYTHONPATH"} <= set(
        command.without
    )
    assert not {"HF_TOKEN", "PATH", "HOME"} & set(command.without)
    assert any("not handed on" in note and "SERVING_BATCH_SIZE" in note for note in started_with())


@pytest.mark.heavy
def test_a_process_starts_without_the_variables_that_are_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_BATCH_SIZE", "8")
    monkeypatch.setenv("KEPT", "1")
    names = ("KEPT", "NEW", "SERVING_BATCH_SIZE")
    code = f"import os, time; print([n for n in {names} if n in os.environ], flush=True); time.sleep(60)"
    argv = [sys.executable, "-c", code]
    command = Command(argv=argv, log_path=tmp_path / "log", env={"NEW": "1"}, without=("SERVING_BATCH_SIZE",))
    with ServerProcess(command) as process:
        process.wait_for(lambda: process.log_tail() or None, 30.0, "word")
        assert process.log_tail() == "['KEPT', 'NEW']"


def test_files_are_found_from_a_relative_folder_and_by_java_whatever_its_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = _command(tmp_path, Path("wörk, a"))
    config = tmp_path / "wörk, a" / "config.properties"
    assert command.argv[1:3] == ["-f", str(config)]
    assert command.cwd == tmp_path / "wörk, a"
    config.read_text(encoding="ascii")
    assert read_properties(config)["model_store"] == str(tmp_path / "wörk, a" / "models")
    # The server cuts what it is to load at commas and blanks.
    assert command.argv[4] == f"model::Python={(tmp_path / 'wörk, a' / 'model').as_uri()}/"
    assert not set(command.argv[4]) & {",", " "}


def test_the_jvm_is_that_of_the_images_unless_the_user_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_OPTS", raising=False)
    env = _command(tmp_path, tmp_path / "work").env
    assert env["JAVA_OPTS"] == f"{IMAGE_JVM} -Djava.io.tmpdir=/t/dyno"
    assert (env["OMP_NUM_THREADS"], env["PIP_NO_INDEX"]) == ("1", "1")
    monkeypatch.setenv("JAVA_OPTS", "-Xmx2g")
    env = _command(tmp_path, tmp_path / "work", Path("/t/a b")).env
    assert env["JAVA_OPTS"] == '-Xmx2g "-Djava.io.tmpdir=/t/a b"'
    assert started_with()[0] == "JVM options: -Xmx2g"
    with pytest.raises(Unavailable, match="set TMPDIR to a shorter one"):
        _command(tmp_path, tmp_path / "work", Path("/" + "t" * 100))


def test_logs_go_beside_the_trial_s_where_the_release_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_SERVER_HOME", raising=False)
    assert "MODEL_SERVER_HOME" not in _command(tmp_path, tmp_path / "work").env
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert _command(tmp_path, tmp_path / "work").env["MODEL_SERVER_HOME"] == str(tmp_path / "work")


@pytest.mark.heavy
def test_a_port_that_was_taken_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    words = (
        "ERROR ModelServer Unexpected error\njava.io.IOException: Failed to bind to address: http://127.0.0.1:9000\n"
    )
    argv = [sys.executable, "-c", f"print({words!r}); raise SystemExit(1)"]
    command = Command(argv=argv, log_path=tmp_path / "log")
    with ServerProcess(command) as process, pytest.raises(LaunchFailed) as caught:
        wait_for_workers(process, free_port(), 1, 30.0)
    assert "was taken by another program meanwhile; run it again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_colours_of_the_console_log_are_no_words() -> None:
    line = "\x1b[32mINFO \x1b[m \x1b[92mPyProcess\x1b[m W-12-model-stdout: no memory left"
    assert last_words(line) == "no memory left"
    assert last_words("\x1b[1;31mERROR\x1b[m \x1b[92mModelServer\x1b[m Unexpected") == "ERROR ModelServer Unexpected"


class _Process:
    """A server of which one process may go."""

    pids: tuple[int, ...] = (1,)

    def exit_code(self) -> None:
        return None


def test_a_measured_server_is_asked_once_a_second_and_after_a_process_is_gone_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked, answer = [100.0], list[float](), [""]

    def ask(port: int) -> str:
        asked.append(now[0])
        return answer[0]

    monkeypatch.setattr("engines.foreign_servers.djl.engine.time.monotonic", lambda: now[0])
    monkeypatch.setattr(djl, "ping_failure", ask)
    monkeypatch.setattr(djl, "_failed", lambda why, process: LaunchFailed(why))
    process = _Process()
    running = RunningDjl(process, endpoint_at(9000), None)  # type: ignore[arg-type]
    for tenth in range(20):
        now[0] = 100.0 + tenth / 10
        assert running.failure() is None
    assert asked == [100.0, 101.0]
    process.pids = (1, 2**22 + 1)  # a number that no process has
    now[0] = 102.0
    assert running.failure() is None
    now[0] = 102.1
    assert running.failure() is None
    assert asked[2:] == [102.0, 102.1], "it is gone, and the server may not know it yet"
    answer[0] = "it failed"
    now[0] = 102.2
    failure = running.failure()
    answer[0] = ""
    assert str(failure) == "it failed"
    assert running.failure() is failure, "for good"
