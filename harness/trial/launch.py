"""Launching a candidate's engine for a trial."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from engines.api import EngineSpec, RunningEngine, ScriptedEngine
from engines.launching import engine_here, load_engine
from engines.processes.waiting import logger
from harness.records import Candidate
from harness.scenario.schema import Scenario
from harness.trial.progress import LAUNCH, Phase, Progress

Launched = AbstractContextManager[RunningEngine]

MIN_READY_S = 10.0
"""The last trial of a search is let start, however little time is left."""


def spec_of(candidate: Candidate, model_dir: Path) -> EngineSpec:
    """The engine's side of a candidate."""
    return EngineSpec(
        engine=candidate.engine, model_dir=model_dir, python=candidate.python or None, **candidate.values()
    )


def launch(spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Launched:
    """The engine of `spec`, starting; logs go to `workdir`. Raises EngineError."""
    # Another checkout is served whole by its own interpreter; what this environment lacks does not matter there.
    engine = engine_here(spec.engine) if spec.source_root else load_engine(spec.engine, spec.python)
    return engine.launch(spec, workdir, ready_timeout_s)


def launch_script(script: Path, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> Launched:
    """The engine of `spec`, started by a script that a launch of it wrote. Raises EngineError."""
    engine = load_engine(spec.engine, spec.python)
    assert isinstance(engine, ScriptedEngine)
    return engine.launch_script(script, spec, workdir, ready_timeout_s)


def ready_timeout_s(scenario: Scenario, left_s: float | None = None) -> float:
    """Seconds an engine may take until it is ready: the scenario's, and no more than `left_s` of search.max_minutes
    (None: all of it)."""
    left_s = scenario.search.max_minutes * 60 if left_s is None else left_s
    return min(scenario.ready_timeout_s, max(MIN_READY_S, left_s))


@contextmanager
def shown(
    launched: Launched, progress: Progress, until: Callable[[RunningEngine], None] = lambda engine: None
) -> Iterator[RunningEngine]:
    """The engine of `launched` once `until` has returned; a line every few seconds names what is waited for."""
    handler = _Shown(progress)
    with ExitStack() as stack:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # libraries that log to the root logger give it a handler, which would show it again
        try:
            engine = stack.enter_context(launched)
            until(engine)
        finally:
            logger.removeHandler(handler)
            logger.propagate = True
        yield engine


class _Shown(logging.Handler):
    """Shows a line of the waiting engine as a part of the phase."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.on_phase(Phase(name=LAUNCH, text=record.getMessage()))
