"""Launching a candidate's engine for a trial."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from engines.api import EngineSpec, RunningEngine
from engines.launching import engine_here, load_engine
from harness.records import Candidate

READY_TIMEOUT_S = 600.0
"""How long an engine may take to convert, load and answer /ping; the first export of a large model takes minutes."""

Launched = AbstractContextManager[RunningEngine]


def spec_of(candidate: Candidate, model_dir: Path) -> EngineSpec:
    """The engine's side of a candidate."""
    return EngineSpec(
        engine=candidate.engine, model_dir=model_dir, python=candidate.python or None, **candidate.values()
    )


def launch(spec: EngineSpec, workdir: Path) -> Launched:
    """The engine of `spec`, starting; logs go to `workdir`. Raises EngineError."""
    # Another checkout is served whole by its own interpreter; what this environment lacks does not matter there.
    engine = engine_here(spec.engine) if spec.source_root else load_engine(spec.engine, spec.python)
    return engine.launch(spec, workdir, READY_TIMEOUT_S)
