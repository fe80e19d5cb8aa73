"""An engine whose workers run in another environment; see environments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engines.api import Availability, Capabilities, EngineSpec
from engines.environments.locate import describe
from engines.errors import Unavailable
from engines.hosted import HostedEngine, RunningServer


class ElsewhereEngine(HostedEngine):
    """`here` as it is in the environment of `python`."""

    def __init__(self, here: HostedEngine, python: Path) -> None:
        self.name = here.name
        self.needs_model = here.needs_model
        self.features = here.features
        self.python = python
        self._here = here

    def probe(self) -> Availability:
        availability, _ = describe(self.name, self.python)
        return availability

    def capabilities(self) -> Capabilities:
        availability, able = describe(self.name, self.python)
        if able is None:
            raise Unavailable(f"{self.name} cannot run in {self.python}: {availability.reason}")
        return able

    def check_model(self, model_dir: Path) -> None:
        self._here.check_model(model_dir)

    @contextmanager
    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Iterator[RunningServer]:
        """As HostedEngine, with the workers in that environment."""
        with self._here.launch(replace(spec, python=str(self.python)), workdir, ready_timeout_s) as running:
            yield running
