"""`HostedEngine`: the launcher of every engine that our own model server hosts."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines import errors, metrics_page
from engines.api import Availability, Capabilities, Endpoint, EngineFacts, EngineSpec, QueueOrder
from engines.cache_folder import cache_root
from engines.environments.describe import describe, engines_of
from engines.environments.locate import interpreter
from engines.environments.packages import package_availability
from engines.errors import EngineError, LaunchFailed, OutOfMemory, SpecInvalid, Unavailable
from engines.metrics_page import page_at
from engines.models.folder import check_model_folder
from engines.processes.call_in_child import call_in_child
from engines.processes.child_environment import child_environment
from engines.processes.out_of_memory import shows_out_of_memory
from engines.processes.server_process import Command, ServerProcess
from engines.processes.temp_folders import fresh_path
from engines.serving_properties.write import spec_to_properties
from engines.spec_check import check_spec

HOST = "127.0.0.1"
STOP_GRACE_S = 10.0
DRAIN_S = 5


LOADED_FEATURES = {
    "model_parallel": "no",
    "loads_hugging_face": "yes",
    "runtime_partition": "no",
    "ahead_of_time_partition": "no",
    "partition_on_cpu_memory": "no",
    "streaming": "yes",
    "fast_loading": "memory-mapped safetensors",
    "hardware": "CPU",
    "model_kinds": "T5, decoder-only",
    "openai": "completions, chat",
}
"""Answers to the rows of api.FEATURES of an engine that loads the model folder as it is and runs it on the CPU."""
CONVERTED_FEATURES = {**LOADED_FEATURES, "loads_hugging_face": "converted once", "fast_loading": "kept conversion"}
"""The same of one that converts it first."""
SHARDED_FEATURES = {**LOADED_FEATURES, "model_parallel": "tensor", "runtime_partition": "yes"}
"""The same of one that deals the weights out over ranks while it loads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Which server program: an interpreter, and the checkout whose `engines` it runs (None: this one); and how it takes
    waiting requests (a checkout that is older knows one order)."""

    python: str
    source_root: Path | None = None
    queue_order: QueueOrder = "fifo"


HERE = Front(python=sys.executable)


class HostedEngine:
    """An Engine whose Backend runs in our model server. A subclass gives `name`, `capabilities`, and `packages` or its
    own `probe`; `prepare` where it converts models."""

    name = ""
    packages: tuple[str, ...] = ()
    """What must be importable; the extra of the same name installs it."""
    features: Mapping[str, str] = {}
    """Answers to the rows of api.FEATURES; the same as in its capabilities."""
    needs_model = True
    """False for an engine that reads nothing from its model folder (fake)."""

    def probe(self) -> Availability:
        return package_availability(self.packages, self.name)

    def capabilities(self) -> Capabilities:
        raise NotImplementedError

    @contextmanager
    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Iterator[RunningServer]:
        """Write <workdir>/serving.properties and serve it; ends the server at the end. Raises as Engine.launch
        states."""
        if spec.python:
            spec = replace(spec, python=str(interpreter(spec.python, self.name)))
        self.check(spec)
        self._prepare_there(spec)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "serving.properties"
        # A server of another checkout runs whole in the named environment: its properties need not know the key.
        written = replace(spec, python=None) if spec.source_root else spec
        path.write_text(spec_to_properties(written, ready_timeout_s), encoding="ascii")
        front = replace(HERE, queue_order=spec.queue_order)
        if spec.source_root:
            front = Front(python=spec.python or sys.executable, source_root=spec.source_root)
        with serve_file(path, spec.model_dir, workdir, ready_timeout_s, front) as running:
            yield running

    def prepare(self, spec: EngineSpec) -> None:
        """Make what loading needs and what must not count against the ready deadline (a converted model); once,
        cached. Raises ModelInvalid, Unavailable."""

    def _prepare_there(self, spec: EngineSpec) -> None:
        """`prepare`, in the environment the model will be served from; another checkout prepares while it loads."""
        if spec.source_root is not None:
            return
        if spec.python is None:
            self.prepare(spec)
        elif type(self).prepare is not HostedEngine.prepare:
            text = json.dumps(spec.as_message())
            call_in_child("engines.launching", "prepare_here", [text], python=spec.python)

    def check(self, spec: EngineSpec) -> None:
        """Raises Unavailable, SpecInvalid or ModelInvalid for what can be known without starting anything."""
        if spec.source_root is not None:  # only that checkout knows what it can do: it refuses when it loads
            if not (spec.source_root / "engines" / "server").is_dir():
                raise SpecInvalid(f"source_root {spec.source_root}: no engines/server in it; name a checkout's root")
            found = engines_of(spec.python or sys.executable, spec.source_root)
            if found is None or found.resolve() != (spec.source_root / "engines").resolve():
                raise SpecInvalid(f"source_root {spec.source_root}: its server would run {found or 'nothing'} instead")
            return
        availability: Availability = self.probe()
        able: Capabilities | None = None
        if spec.python is not None:
            availability, able = describe(self.name, Path(spec.python))
        if not availability.is_available:
            where = f"in {spec.python}" if spec.python else "here"
            raise Unavailable(f"{self.name} cannot run {where}: {availability.reason}")
        check_spec(spec, able or self.capabilities())
        if self.needs_model:
            self.check_model(spec.model_dir)

    def check_model(self, model_dir: Path) -> None:
        """Raises ModelInvalid unless `model_dir` is a whole Hugging Face folder; for engines with their own format to
        extend."""
        check_model_folder(model_dir)


class RunningServer:
    """A RunningEngine: our model server, ready."""

    def __init__(self, process: ServerProcess, state_path: Path, port: int, facts: Mapping[str, Any]) -> None:
        self._process = process
        self._state_path = state_path
        url = f"http://{HOST}:{port}"
        self.endpoint = Endpoint(
            url=url, protocol="djl", model_name=facts["model_name"], metrics=page_at(url, metrics_page.OURS)
        )
        self._facts = EngineFacts(
            effective_dtype=facts["effective_dtype"],
            versions=facts["versions"],
            load_s=facts["load_s"],
            notes=tuple(facts["notes"]),
            converted_dir=facts.get("converted_dir", ""),  # a server of an older checkout does not say
            queue_order=facts.get("queue_order", "fifo"),
        )

    @property
    def facts(self) -> EngineFacts:
        state = _read_state(self._state_path) or {}
        return replace(self._facts, crashes=state.get("crashes", 0))

    @property
    def pids(self) -> tuple[int, ...]:
        """The front first, then its workers and whatever they started."""
        return self._process.pids

    def failure(self) -> EngineError | None:
        """None while it serves; else why not."""
        if self._process.exit_code() is not None:
            return self._process.ended_error()
        state = _read_state(self._state_path)
        if state is None or state["state"] != "failed":
            return None
        error = _error_of(state["error"], self._process)
        return OutOfMemory(str(error)) if shows_out_of_memory(self._process.log_tail()) else error


@contextmanager
def serve_file(
    properties_path: Path, model_dir: Path | None, workdir: Path, ready_timeout_s: float, front: Front = HERE
) -> Iterator[RunningServer]:
    """Our model server over an existing file, without checking first; ends it at the end. Raises LaunchFailed,
    NotReady and what the server reports."""
    state_path = workdir / "server-state.json"
    state_path.unlink(missing_ok=True)
    argv = [front.python, "-u", "-m", "engines.server", "--properties", str(properties_path)]
    argv += ["--host", HOST, "--port", "0", "--state-file", str(state_path), "--drain-s", str(DRAIN_S)]
    if front.queue_order != "fifo":
        argv += ["--queue-order", front.queue_order]
    if model_dir is not None:
        argv += ["--model-dir", str(model_dir)]
    # Not under workdir: libraries put Unix sockets into TMPDIR, whose paths may have 107 characters at most.
    temp_dir = fresh_path("server")
    command = Command(argv=argv, log_path=workdir / "server.log", env=_environment(front), temp_dir=temp_dir)
    process = ServerProcess(command)
    try:
        port = process.wait_for(lambda: _ready_port(process, state_path), ready_timeout_s, "loaded model")
        yield RunningServer(process, state_path, port, _get_facts(port))
    finally:
        process.stop(STOP_GRACE_S)


def _environment(front: Front) -> dict[str, str]:
    env = child_environment(front.python, front.source_root)
    env["PYTHONUNBUFFERED"] = "1"
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:  # it would lie in TMPDIR, which is private and soon gone
        env["TORCHINDUCTOR_CACHE_DIR"] = str(cache_root() / "torchinductor")
    return env


def _ready_port(process: ServerProcess, state_path: Path) -> int | None:
    """The port once it serves, None before; raises the server's own error when it failed."""
    state = _read_state(state_path)
    if state is None:
        return None
    if state["state"] == "failed":
        raise _error_of(state["error"], process)
    return int(state["port"]) if state["state"] == "ready" else None


def _error_of(error: Mapping[str, str], process: ServerProcess) -> EngineError:
    """What the server reported, as the error it was; a failed launch carries the log's end."""
    kind: type[EngineError] = getattr(errors, error["kind"], LaunchFailed)
    if not issubclass(kind, LaunchFailed):
        return kind(error["message"])
    return kind(f"{error['message']}; its log {process.command.log_path} ends:\n{process.log_tail()}")


def _read_state(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return state


def _get_facts(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10.0)
    try:
        connection.request("GET", "/facts")
        facts: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, ValueError) as error:
        raise LaunchFailed(f"the server was ready but its /facts could not be read: {error}") from error
    finally:
        connection.close()
    return facts
