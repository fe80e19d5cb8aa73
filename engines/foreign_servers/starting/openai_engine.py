"""Common ground of engines whose own server talks OpenAI's protocol: found, checked, started by a script, ended.

What differs stands in a subclass of OpenAiServerEngine and in its Start: where the server is, what it is started with,
what it reports of itself.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, Self

from engines.api import Availability, Capabilities, Endpoint, EngineFacts, EngineSpec
from engines.foreign_servers.starting.running import RunningForeignServer
from engines.foreign_servers.starting.start_script import start, write_script
from engines.hosted import STOP_GRACE_S
from engines.models.folder import check_model_folder
from engines.option_values import one_of
from engines.processes.server_process import ServerProcess, free_port
from engines.spec_check import check_spec

PROTOCOLS = one_of("openai", "openai-chat")
"""What the option `protocol` of these engines takes."""


class Start(Protocol):
    """One specification, understood: what its server is started with."""

    def script(self) -> str:
        """The text of the start script."""
        ...

    def wait(self, process: ServerProcess, port: int, name: str, timeout_s: float) -> None:
        """Return once the server on `port` serves a model called `name`. Raises what ServerProcess.wait_for raises,
        PortTaken where another server answers there."""
        ...

    def endpoint(self, port: int, name: str) -> Endpoint:
        """Where and how to ask it."""
        ...

    def facts(self, port: int, load_s: float) -> EngineFacts:
        """What runs, as far as it is known from outside; asked once it serves. Raises ModelInvalid for a server that
        would be asked something else than the folder's model."""
        ...


class OpenAiServerEngine:
    """An engine with its own server. A subclass gives `name`, `features`, `probe`, `capabilities` and `prepared`.

    `python`, `command` and `image` are the block's, '' where it names none.
    """

    name = ""
    needs_model = True
    features: Mapping[str, str] = {}

    def __init__(self, python: str = "", command: str = "", image: str = "") -> None:
        self.python = python
        self.command = command
        self.image = image

    def placed(self, python: str, command: str, image: str = "") -> Self:
        """The same engine, looked for in the place that a block names."""
        return type(self)(python, command, image)

    def probe(self) -> Availability:
        raise NotImplementedError

    def capabilities(self) -> Capabilities:
        raise NotImplementedError

    def check_folder(self, model_dir: Path) -> None:
        """Raises ModelInvalid for a model that a launch would refuse; reads no weights."""

    def prepared(self, spec: EngineSpec) -> Start:
        """What the server of a checked `spec` is started with; whatever it reads is made by then. Raises Unavailable,
        SpecInvalid and ModelInvalid for what can be known before anything runs."""
        raise NotImplementedError

    def launch(
        self, spec: EngineSpec, workdir: Path, ready_timeout_s: float
    ) -> AbstractContextManager[RunningForeignServer]:
        """Start the server, wait until it serves this model; its log is `workdir`/server.log."""
        return self._run(None, spec, workdir, ready_timeout_s)

    def launch_script(
        self, script: Path, spec: EngineSpec, workdir: Path, ready_timeout_s: float
    ) -> AbstractContextManager[RunningForeignServer]:
        """The same with a script that an earlier launch of `spec` wrote."""
        return self._run(script, spec, workdir, ready_timeout_s)

    @contextmanager
    def _run(
        self, script: Path | None, spec: EngineSpec, workdir: Path, ready_timeout_s: float
    ) -> Iterator[RunningForeignServer]:
        check_model_folder(spec.model_dir)
        command, image = (str(spec.options.get(name, getattr(self, name))) for name in ("command", "image"))
        there = self.placed(spec.python or self.python, command, image)
        check_spec(spec, there.capabilities())
        begun = there.prepared(spec)
        script = script or write_script(workdir, begun.script())
        port = free_port()
        name = f"{spec.model_dir.name}-{secrets.token_hex(4)}"  # ours alone: another server on the port is known by it
        begin = time.monotonic()
        process = start(script, workdir, name=name, port=port)
        try:
            begun.wait(process, port, name, ready_timeout_s)
            facts = begun.facts(port, time.monotonic() - begin)
            yield RunningForeignServer(process, begun.endpoint(port, name), facts, has_pids=not image)
        finally:
            process.stop(STOP_GRACE_S)
