"""A left-over server of another model on the port of a launch: refused in one sentence, and never measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines.api import EngineSpec
from engines.errors import LaunchFailed, PortTaken
from engines.foreign_servers.starting import openai_engine
from engines.foreign_servers.starting.openai_server import wait_for_model
from engines.launching import load_engine
from engines.processes.server_process import Command, ServerProcess
from tests.engines.models.decoder_folders import write_decoder
from tests.harness.load.odd_server import Odd, odd_server
from tests.waiting import eventually

pytestmark = pytest.mark.heavy


@pytest.fixture
def left_over() -> Iterator[int]:
    """The port of a server that is healthy and serves `someone-else`."""
    asked: list[dict[str, Any]] = []

    def another(odd: Any, body: dict[str, Any]) -> None:
        asked.append(body)
        odd.answer(b'{"data": [{"id": "someone-else"}]}')

    with odd_server(another) as url:
        yield int(url.rpartition(":")[2])
    assert not [body for body in asked if body.get("messages") or body.get("prompt")], "nothing that it would compute"


@pytest.mark.parametrize("argv", [["sleep", "60"], ["false"]])
def test_it_is_not_taken_for_ours_whether_ours_still_starts_or_has_given_up(
    argv: list[str], left_over: int, tmp_path: Path
) -> None:
    with ServerProcess(Command(argv=argv, log_path=tmp_path / "log")) as process:
        if argv == ["false"]:
            eventually(lambda: process.exit_code() is not None, "it has ended", 10.0)
        with pytest.raises(PortTaken, match="serves someone-else, expected ours"):
            wait_for_model(process, left_over, ("ours",), 10.0)


def test_ours_that_ends_between_two_questions_is_no_other_server(tmp_path: Path) -> None:
    def healthy_and_gone(odd: Odd, body: dict[str, Any]) -> None:
        if odd.path == "/health":
            odd.answer(b"")
        else:
            odd.close_connection = True

    with (
        ServerProcess(Command(argv=["false"], log_path=tmp_path / "log")) as process,
        odd_server(healthy_and_gone) as url,
    ):
        eventually(lambda: process.exit_code() is not None, "it has ended", 10.0)
        with pytest.raises(LaunchFailed, match="ended"):
            wait_for_model(process, int(url.rpartition(":")[2]), ("ours",), 10.0)


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_a_launch_that_gets_its_port_ends_in_one_sentence_and_leaves_nothing(
    engine: str, left_over: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("gguf") is None:
        pytest.skip("gguf is not installed: pip install '.[llamacpp]'")
    monkeypatch.setattr(openai_engine, "free_port", lambda: left_over)
    command = tmp_path / "server.sh"
    command.write_text("#!/bin/sh\nexec sleep 600\n")
    command.chmod(0o755)
    folder = write_decoder(tmp_path / "llama", "llama", head_dim=32)
    spec = EngineSpec(engine=engine, model_dir=folder, threads=1, options={"command": str(command)})

    with pytest.raises(PortTaken) as refused, load_engine(engine).launch(spec, tmp_path / "work", 60.0):
        pass

    assert re.fullmatch(
        f"another server answers on port {left_over}: it serves someone-else, expected llama-[0-9a-f]{{8}}; "
        "stop it, or start again",
        str(refused.value),
    )
    assert not [child for child in psutil.Process().children(recursive=True) if "sleep" in child.cmdline()]
