"""A foreign server that runs: its process and whatever it started."""

from __future__ import annotations

from engines.api import Endpoint, EngineFacts
from engines.errors import EngineError
from engines.processes.server_process import ServerProcess


class RunningForeignServer:
    """A RunningEngine: one foreign server and whatever it started; without `has_pids` in a container."""

    def __init__(
        self, process: ServerProcess, endpoint: Endpoint, facts: EngineFacts, *, has_pids: bool = True
    ) -> None:
        self._process = process
        self._has_pids = has_pids
        self.endpoint = endpoint
        self.facts = facts

    @property
    def pids(self) -> tuple[int, ...]:
        """The server first, then its children; none of a container's."""
        return self._process.pids if self._has_pids else ()

    def failure(self) -> EngineError | None:
        """None while it runs; else why not."""
        return None if self._process.exit_code() is None else self._process.ended_error()
