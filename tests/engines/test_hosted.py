"""Launching through the Engine interface: every way it can fail has its own error, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.adapters.fake import FakeEngine
from engines.api import EngineSpec
from engines.errors import EngineError, LaunchFailed, NotReady, OutOfMemory, SpecInvalid
from engines.launching import launch_file
from engines.processes import supervisor
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

READY_TIMEOUT_S = 120.0


def failed_launch(
    tmp_path: Path, error: type[EngineError], ready_timeout_s: float = READY_TIMEOUT_S, **fields: Any
) -> str:
    """The message of the error that launching the fake engine raises; checks that no process stayed behind."""
    before = set(supervisor.descendants(os.getpid()))
    spec = EngineSpec(engine="fake", model_dir=tmp_path, **fields)
    with pytest.raises(error) as caught, FakeEngine().launch(spec, tmp_path, ready_timeout_s):
        pass
    assert type(caught.value) is error
    assert set(supervisor.descendants(os.getpid())) <= before
    assert not list(Path(tempfile.gettempdir()).glob(f"dyno-{os.getpid()}-server-*"))
    return str(caught.value)


def test_memory_that_runs_out_while_loading_is_out_of_memory(tmp_path: Path) -> None:
    message = failed_launch(tmp_path, OutOfMemory, options={"oom_on_load": True}, workers=2)
    assert "fake ran out of memory while loading" in message
    assert "server.log ends:" in message


def test_a_worker_that_hangs_is_not_ready(tmp_path: Path) -> None:
    message = failed_launch(tmp_path, NotReady, 3.0, options={"hang_on_start": True})
    assert "no loaded model after 3 s" in message


def test_a_worker_that_dies_while_loading_is_a_failed_launch(tmp_path: Path) -> None:
    spec = EngineSpec(engine="fake", model_dir=tmp_path, options={"hang_on_start": True})
    engine = FakeEngine().launch(spec, tmp_path, READY_TIMEOUT_S)

    earlier = set(supervisor.descendants(os.getpid()))  # of other tests in this process

    def kill_worker() -> None:
        def worker() -> int | None:
            found = [pid for pid in supervisor.descendants(os.getpid()) if pid not in earlier]
            return found[2] if len(found) == 3 else None  # supervisor, front, worker

        os.kill(eventually(worker), signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    with pytest.raises(LaunchFailed, match="a worker ended by signal 9 while loading"), engine:
        pass
    killer.join()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"options": {"servise_ms": 1}},
            "options.servise_ms 1 refused: fake has no such option; did you mean 'service_ms'?",
        ),
        ({"options": {"law": "uniform"}}, "options.law 'uniform' refused: expected one of constant"),
        ({"dtype": "int3"}, "int3"),
        ({"workers": 0}, "workers 0 refused: expected a whole number >= 1"),
        ({"batch_size": 0}, "batch_size 0 refused"),
        ({"max_batch_delay_ms": -1}, "max_batch_delay_ms -1 refused: expected a whole number >= 0"),
        ({"device": "cuda"}, "device 'cuda' refused"),
    ],
)
def test_an_impossible_spec_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    assert message in failed_launch(tmp_path, SpecInvalid, **fields)


def test_the_log_and_the_properties_file_are_kept(tmp_path: Path) -> None:
    spec = EngineSpec(engine="fake", model_dir=tmp_path, dtype="bf16")
    with FakeEngine().launch(spec, tmp_path, READY_TIMEOUT_S) as running:
        assert running.facts.effective_dtype == "fp32"
    assert "ready on port" in (tmp_path / "server.log").read_text()
    assert "option.dtype=bf16" in (tmp_path / "serving.properties").read_text()


def test_waiting_requests_are_taken_in_the_order_of_the_spec(tmp_path: Path) -> None:
    spec = EngineSpec(engine="fake", model_dir=tmp_path, queue_order="heap")
    with FakeEngine().launch(spec, tmp_path / "heap", READY_TIMEOUT_S) as running:
        assert running.facts.queue_order == "heap"
        assert any("newest first" in note for note in running.facts.notes)
    with FakeEngine().launch(replace(spec, queue_order="fifo"), tmp_path / "fifo", READY_TIMEOUT_S) as running:
        assert running.facts.queue_order == "fifo"


def test_a_front_that_is_killed_is_reported_and_takes_its_workers_along(tmp_path: Path) -> None:
    with FakeEngine().launch(
        EngineSpec(engine="fake", model_dir=tmp_path, workers=2), tmp_path, READY_TIMEOUT_S
    ) as running:
        pids = running.pids
        assert len(pids) == 3
        os.kill(pids[0], signal.SIGKILL)
        assert "ended by signal 9" in str(eventually(running.failure))
        eventually(lambda: not set(supervisor.descendants(os.getpid())) & set(pids), "its workers end", 5.0)
        assert running.pids == ()


def test_a_file_is_served_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "serving.properties"
    path.write_text(
        "option.entryPoint=engines.fake\nload_on_devices=-1\nmaxWorkers=1\noption.task=text2text-generation\n"
    )
    with launch_file(path, None, tmp_path / "logs", READY_TIMEOUT_S) as running:
        assert "option.task=text2text-generation has no effect in this server" in running.facts.notes
    path.write_text("option.entryPoint=engines.fake\nbatch_sise=4\n")
    with pytest.raises(SpecInvalid, match="did you mean 'batch_size'"), launch_file(path, None, tmp_path, 1.0):
        pass


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    launch = launch_file(tmp_path / "none.properties", None, tmp_path, 1.0)
    with pytest.raises(SpecInvalid, match=r"none\.properties: cannot read it"), launch:
        pass
