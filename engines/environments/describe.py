"""`python -m engines.environments.describe ENGINE`: what an engine can do in this environment, as one line of JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from engines.api import Availability, Capabilities, EngineSpec
from engines.registry import engine_here


def main(engine: str) -> None:
    """Print the engine's Availability and, where it is available, its Capabilities."""
    adapter = engine_here(engine)
    availability = adapter.probe()
    able = adapter.capabilities() if availability.is_available else None
    print(json.dumps({"availability": asdict(availability), "capabilities": asdict(able) if able else None}))


def from_text(line: str) -> tuple[Availability, Capabilities | None]:
    """What `main` printed, as records."""
    told: dict[str, Any] = json.loads(line)
    able = told["capabilities"]
    return Availability(**told["availability"]), Capabilities(**_tuples(able)) if able else None


def _tuples(able: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(Capabilities)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in able.items() if name in known}


def prepare(spec_text: str) -> None:
    """Have the engine make its converted model in this environment; `spec_text` is an EngineSpec as JSON."""
    from engines.hosted import HostedEngine

    told = json.loads(spec_text)
    spec = EngineSpec(**{**told, "model_dir": Path(told["model_dir"]), "python": None, "source_root": None})
    engine = engine_here(spec.engine)
    if isinstance(engine, HostedEngine):
        engine.prepare(spec)


if __name__ == "__main__":
    main(sys.argv[1])
