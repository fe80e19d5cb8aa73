"""Capabilities of an engine in another Python environment, found out by running a child process there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from engines.api import Availability, Capabilities
from engines.environments.locate import OLDEST, STAMP, or_auto
from engines.option_values import OptionValues
from engines.processes.child_environment import child_environment

DESCRIBE_TIMEOUT_S = 60.0


def describe(engine: str, python: Path) -> tuple[Availability, Capabilities | None]:
    """What `engine` can do in the environment of `python`, asked there once; Capabilities only where available."""
    return _described(engine, str(python), python.stat().st_mtime_ns, _stamp_time(python))


def _stamp_time(python: Path) -> int:
    stamp = python.parents[1] / STAMP
    return stamp.stat().st_mtime_ns if stamp.is_file() else 0


@lru_cache(maxsize=32)
def _described(engine: str, python: str, *_changed: int) -> tuple[Availability, Capabilities | None]:
    argv = [python, "-m", "engines.launching", "describe", engine]
    env = {**os.environ, **child_environment(python)}
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=DESCRIBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Availability(is_available=False, reason=f"{python} could not be asked: {error}"), None
    try:
        return _from_text(done.stdout.splitlines()[-1])
    except (IndexError, ValueError, KeyError, TypeError):
        return Availability(is_available=False, reason=_why_silent(engine, python, done.stderr)), None


def _why_silent(engine: str, python: str, log: str) -> str:
    """Why an interpreter could not report what the engine can do there, and what helps."""
    asked = [python, "-I", "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=DESCRIBE_TIMEOUT_S, check=False)
        version = tuple(map(int, done.stdout.split()))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        version = ()
    other = f"name another{or_auto(engine)}"
    if len(version) != 2:
        return f"{python} does not answer as a Python 3 does; {other}"
    if version < OLDEST:
        return f"{python} is Python {version[0]}.{version[1]}; engines need {OLDEST[0]}.{OLDEST[1]} or later; {other}"
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "no word")
    if missing := re.fullmatch(r"ModuleNotFoundError: No module named '(.+)'", last.strip()):
        return f"{python} has no package {missing[1]}, which every engine's workers need; {other}"
    return f"{python} could not be asked about {engine}: {last.strip()}"


def _from_text(line: str) -> tuple[Availability, Capabilities | None]:
    """The line that `python -m engines.launching ENGINE` printed, as records."""
    answer: dict[str, Any] = json.loads(line)
    able = answer["capabilities"]
    return Availability(**answer["availability"]), Capabilities(**_tuples(able)) if able else None


def _tuples(able: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(Capabilities)}
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in able.items() if name in known}
    lists = {name: able.get(name, {}) for name in ("changes_answers", "leaves_out")}
    found |= {name: {key: tuple(words) for key, words in given.items()} for name, given in lists.items()}
    values = able.get("option_values", {})
    return found | {"option_values": {name: OptionValues.from_row(row) for name, row in values.items()}}


def engines_of(python: str, source_root: Path) -> Path | None:
    """The `engines` folder that a server of another checkout would really run; None when it cannot be imported."""
    argv = [python, "-c", "import engines; print(engines.__file__)"]
    env = {**os.environ, **child_environment(python, source_root)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=DESCRIBE_TIMEOUT_S, check=False)
    return Path(done.stdout.strip()).parent if done.returncode == 0 else None
