"""Environments of their own for engines whose packages do not fit beside the others: where they are, what is in them.

An engine names one by `python` (EngineSpec, `python:` in a scenario, `option.pythonExecutable` in serving.properties):
a folder made by venv, an interpreter, or 'auto' for the one that `dyno engine install` made. Without a name, an engine
whose packages are missing here is served from its installed environment. Only its workers run there: they find this
checkout's `engines` by PYTHONPATH, so such an environment holds the engine's packages and nothing of the server.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import engines
from engines.api import Availability, Capabilities
from engines.errors import Unavailable
from engines.models.cache import cache_root

AUTO = "auto"
OLDEST = (3, 11)
"""requires-python of this distribution: workers run its `engines` package."""
STAMP = "environment.json"
"""Written last into an installed environment: without it, the folder is what an interrupted installation left."""
DESCRIBE_TIMEOUT_S = 60.0
_HOOKS = str(Path(__file__).with_name("checkout"))
"""Holds the sitecustomize.py of processes that serve another checkout."""


def environment_folder(engine: str) -> Path:
    """Where `dyno engine install` puts the environment of `engine`; it need not exist."""
    return cache_root() / "engines" / engine


def installed_python(engine: str) -> Path | None:
    """The interpreter of the engine's installed environment; None when there is none, or only half of one."""
    folder = environment_folder(engine)
    python = folder / "bin" / "python"
    return python if (folder / STAMP).is_file() and python.exists() else None


def can_install(engine: str) -> bool:
    """Whether `dyno engine install` knows what the engine needs."""
    return (Path(__file__).parent / f"{engine}.txt").is_file()


def interpreter(python: str, engine: str) -> Path:
    """The interpreter that `python` names: a venv folder, an interpreter, or 'auto'. Raises Unavailable."""
    if python == AUTO:
        found = installed_python(engine)
        if found is None and can_install(engine):
            raise Unavailable(f"{engine} has no environment of its own here: `dyno engine install {engine}` makes it")
        if found is None:
            raise Unavailable(f"{engine} has no environment that could be installed; leave out python: auto")
        return found
    path = Path(python).expanduser()
    path = path / "bin" / "python" if path.is_dir() else path
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise Unavailable(
            f"python {python!r}: {path} is no interpreter; name a venv folder, an interpreter{_or_auto(engine)}"
        )
    return path.absolute()


def _or_auto(engine: str) -> str:
    return f", or 'auto' after `dyno engine install {engine}`" if can_install(engine) else ""


def child_environment(python: str | None = None, source_root: Path | None = None) -> dict[str, str]:
    """Variables for a child in the environment of `python` that must find `engines` of `source_root` (default: this
    checkout) first, whatever folder it stands in, and the tools beside its interpreter and ours (ninja, which compiles
    operators: two versions of it would not accept each other's builds)."""
    root = str(source_root or Path(engines.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, _HOOKS if source_root else "", os.environ.get("PYTHONPATH"))))
    beside = dict.fromkeys(str(Path(each).parent) for each in (python or sys.executable, sys.executable))
    tools = os.pathsep.join((*beside, os.environ.get("PATH", os.defpath)))
    variables = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PATH": tools}
    return {**variables, "DYNO_SOURCE_ROOT": str(source_root)} if source_root else variables


def engines_of(python: str, source_root: Path) -> Path | None:
    """The `engines` folder that a server of another checkout would really run; None when it cannot be imported."""
    argv = [python, "-c", "import engines; print(engines.__file__)"]
    env = {**os.environ, **child_environment(python, source_root)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=DESCRIBE_TIMEOUT_S, check=False)
    return Path(done.stdout.strip()).parent if done.returncode == 0 else None


def describe(engine: str, python: Path) -> tuple[Availability, Capabilities | None]:
    """What `engine` can do in the environment of `python`, asked there once; Capabilities only where available."""
    return _described(engine, str(python), python.stat().st_mtime_ns, _stamp_time(python))


def _stamp_time(python: Path) -> int:
    stamp = python.parents[1] / STAMP
    return stamp.stat().st_mtime_ns if stamp.is_file() else 0


@lru_cache(maxsize=32)
def _described(engine: str, python: str, *_changed: int) -> tuple[Availability, Capabilities | None]:
    argv = [python, "-m", "engines.environments.describe", engine]
    env = {**os.environ, **child_environment(python)}
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=DESCRIBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Availability(is_available=False, reason=f"{python} could not be asked: {error}"), None
    from engines.environments.describe import from_text

    try:
        return from_text(done.stdout.splitlines()[-1])
    except (IndexError, ValueError, KeyError, TypeError):
        return Availability(is_available=False, reason=_why_silent(engine, python, done.stderr)), None


def _why_silent(engine: str, python: str, log: str) -> str:
    """Why an interpreter could not say what the engine can do there, and what helps."""
    asked = [python, "-I", "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=DESCRIBE_TIMEOUT_S, check=False)
        version = tuple(map(int, done.stdout.split()))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        version = ()
    other = f"name another{_or_auto(engine)}"
    if len(version) != 2:
        return f"{python} does not answer as a Python 3 does; {other}"
    if version < OLDEST:
        return f"{python} is Python {version[0]}.{version[1]}; engines need {OLDEST[0]}.{OLDEST[1]} or later; {other}"
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "no word")
    if missing := re.fullmatch(r"ModuleNotFoundError: No module named '(.+)'", last.strip()):
        return f"{python} has no package {missing[1]}, which every engine's workers need; {other}"
    return f"{python} could not be asked about {engine}: {last.strip()}"


def serving_python(engine: str, python: str | None) -> Path | None:
    """The interpreter for the workers of `engine`: the named one, else None where its packages are here, else its
    installed environment's. Raises Unavailable for a named one that is not there."""
    if python:
        return interpreter(python, engine)
    installed = installed_python(engine)
    if installed is None or _is_inside(installed):
        return None
    from engines.registry import engine_here

    return None if engine_here(engine).probe().is_available else installed


def _is_inside(python: Path) -> bool:
    return Path(sys.prefix).absolute() == python.parents[1].absolute()
