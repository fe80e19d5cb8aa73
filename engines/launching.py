"""Launching: from an engine's name to the engine, in this Python environment or in another.

`python -m engines.launching describe ENGINE` prints what the engine can do in the environment that runs it, as one
line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import cast

from engines.api import Availability, Backend, Capabilities, Engine, EngineSpec, PlacedEngine
from engines.environments.describe import describe
from engines.environments.install import is_stale
from engines.environments.locate import installed_python, interpreter
from engines.errors import EngineError, SpecInvalid, Unavailable
from engines.hosted import HostedEngine, RunningServer, serve_file
from engines.nearest import did_you_mean
from engines.processes.call_in_child import answer_call
from engines.registry import BACKENDS, ENGINES
from engines.serving_properties.read import read_serving, read_text


def engine_here(name: str) -> Engine:
    """The engine called `name` in this environment. Raises SpecInvalid with the nearest known name."""
    return cast(Engine, _load(ENGINES, name, "engine")())


def load_engine(name: str, python: str | None = None, command: str = "", image: str = "") -> Engine:
    """The engine called `name`, in the environment that `python` names (see environments); without a name, here, or
    from its installed environment where its packages are missing here. An engine with its own server is looked for
    there, or by `command` or docker `image`. Raises SpecInvalid, Unavailable."""
    engine = engine_here(name)
    if isinstance(engine, PlacedEngine):
        return engine.placed(python or "", command, image)
    if python and not isinstance(engine, HostedEngine):
        raise SpecInvalid(f"{name}: python {python!r} refused: this engine starts no Python process")
    place = serving_python(name, python)
    return engine if place is None or not isinstance(engine, HostedEngine) else RemoteEngine(engine, place)


def load_backend(name: str) -> Backend:
    """A fresh, unloaded Backend of the engine called `name`. Raises SpecInvalid with the nearest known name."""
    return cast(Backend, _load(BACKENDS, name, "backend")())


def _load(table: dict[str, str], name: str, kind: str) -> type:
    if name not in table:
        raise SpecInvalid(f"unknown {kind} {name!r}; known: {', '.join(table)}{did_you_mean(name, table)}")
    module_name, _, attribute = table[name].partition(":")
    return cast(type, getattr(import_module(module_name), attribute))


def any_device(engine: str) -> str:
    """The device that `load_on_devices=*` means for `engine` on this machine: a GPU where it can use one."""
    if not Path("/dev/nvidiactl").exists():
        return "cpu"
    adapter = load_engine(engine)
    return "cuda" if adapter.probe().is_available and "cuda" in adapter.capabilities().devices else "cpu"


def serving_python(engine: str, python: str | None) -> Path | None:
    """The interpreter for the workers of `engine`: the named one, else None where its packages are here, else its
    installed environment's. Raises Unavailable for a named one that is not there."""
    if python:
        return interpreter(python, engine)
    installed = installed_python(engine)
    if installed is None or _is_inside(installed):
        return None
    return None if engine_here(engine).probe().is_available else installed


def _is_inside(python: Path) -> bool:
    return Path(sys.prefix).absolute() == python.parents[1].absolute()


def why_stale(engine: str, python: str) -> str:
    """One sentence where `engine`, asked for in `python` ('' or None: where load_engine finds it), is served from an
    installed environment that its list or its Python has left behind; else ''."""
    try:
        place = serving_python(engine, python or None)
    except EngineError:
        return ""
    installed = installed_python(engine)
    if place is None or installed is None or place.parents[1] != installed.parents[1] or not is_stale(engine):
        return ""
    return (
        f"{engine} is served from {installed.parents[1]}, which was made from another package list or Python than now: "
        f"`dyno engine install {engine}` renews it"
    )


@contextmanager
def launch_file(
    properties_path: Path, model_dir: Path | None, workdir: Path, ready_timeout_s: float
) -> Iterator[RunningServer]:
    """Serve an existing serving.properties as it stands; `model_dir` wins over its option.model_id when given.

    Raises what `HostedEngine.launch` raises.
    """
    text = read_text(properties_path)
    spec = read_serving(text, model_dir or properties_path.parent, any_device).spec
    engine = load_engine(spec.engine, spec.python)
    if model_dir is not None and isinstance(engine, HostedEngine):
        engine.check(replace(spec, python=None))  # the engine is already the one of that environment
    workdir.mkdir(parents=True, exist_ok=True)
    with serve_file(properties_path, model_dir, workdir, ready_timeout_s) as running:
        yield running


class RemoteEngine(HostedEngine):
    """An engine whose workers run in the environment of another interpreter."""

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


def describe_here(engine: str) -> None:
    """Print the engine's Availability here and, where it is available, its Capabilities."""
    adapter = engine_here(engine)
    availability = adapter.probe()
    able = adapter.capabilities() if availability.is_available else None
    print(json.dumps({"availability": asdict(availability), "capabilities": asdict(able) if able else None}))


def prepare_here(spec_text: str) -> None:
    """Let the engine make its converted model in this environment; `spec_text` is an EngineSpec as JSON."""
    spec = replace(EngineSpec.from_message(json.loads(spec_text)), python=None)
    engine = engine_here(spec.engine)
    if isinstance(engine, HostedEngine):
        engine.prepare(spec)


if __name__ == "__main__":
    if sys.argv[1] == "describe":
        describe_here(sys.argv[2])
    else:
        answer_call(prepare_here)
