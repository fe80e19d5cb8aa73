"""The program of a foreign Python server: option `command` or `image`, `python:`, an environment, the path.

In this order; nothing is imported to find it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from engines.environments.locate import installed_python, interpreter
from engines.errors import SpecInvalid, Unavailable
from engines.foreign_servers.starting.docker_image import check_image, digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What starts the server. `argv` ends where the model is named; `python` imports its packages, '' where that is not
    known; `image`: the docker image in which `argv` is run, '' for none."""

    argv: tuple[str, ...]
    where: str
    python: str = ""
    image: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A server that a module of a Python package is, and a program on the path.

    `by_module`, `by_program` and `by_command` are the words before the model: after `python -m`, after the program
    alone, after any other command; `by_image` those in a docker image of it, the program first (none: no image is
    known). `packages` are those whose versions are recorded; `may_be_here`: an environment with all of them may be
    dyno's own. `advice`: how to get it.
    """

    engine: str
    title: str
    name: str
    by_module: tuple[str, ...]
    by_program: tuple[str, ...]
    by_command: tuple[str, ...]
    packages: tuple[str, ...]
    advice: str
    may_be_here: bool = False
    by_image: tuple[str, ...] = ()

    def place(self, command: str, python: str, image: str = "") -> Place:
        """What starts it, in the order of the module's docstring. Raises Unavailable, SpecInvalid."""
        if command and image:
            raise SpecInvalid(f"{self.engine}: options command and image: expected one of them")
        if image:
            if not self.by_image:
                raise SpecInvalid(
                    f"{self.engine}: option image: no docker image of it is known; name command or python:"
                )
            check_image(self.engine, image)
            return Place(argv=self.by_image, where=f"docker image {image}", image=image)
        if command:
            words = self._words(command)
            program = shutil.which(words[0]) if words else None
            if program is None:
                raise Unavailable(f"{self.engine}: option command={command!r}: no such program")
            return self._program(program, tuple(words[1:]), f"option command={command!r}")
        if python:
            return self._module(str(interpreter(python, self.engine)), f"python: {python}")
        if self.may_be_here and all(find_spec(package) for package in self.packages):
            return self._module(sys.executable, "dyno's own environment")
        if (installed := installed_python(self.engine)) is not None:
            return self._module(str(installed), "the installed environment")
        if program := shutil.which(self.name):
            return self._program(program, (), f"{program} on the path")
        raise Unavailable(f"{self.title} not found: {self.advice}")

    def _words(self, command: str) -> list[str]:
        try:
            return shlex.split(command)
        except ValueError as error:
            what = f"option command is {command!r}, expected words as a shell reads them"
            raise SpecInvalid(f"{self.engine}: {what}: {error}") from None

    def _module(self, python: str, where: str) -> Place:
        return Place(argv=(python, "-m", *self.by_module), where=where, python=python)

    def _program(self, program: str, more: tuple[str, ...], where: str) -> Place:
        is_bare = Path(program).name == self.name and not more
        argv = (program, *self.by_program) if is_bare else (program, *more, *self.by_command)
        return Place(argv=argv, where=where, python=_interpreter_of(Path(program)))


def _interpreter_of(program: Path) -> str:
    """The interpreter that a Python program names in its first line; '' where there is none."""
    with program.open("rb") as file:
        first = file.readline(300)
    named = first.removeprefix(b"#!").decode(errors="replace").split()
    is_python = first.startswith(b"#!/") and len(named) == 1 and "python" in Path(named[0]).name
    return named[0] if is_python and Path(named[0]).exists() else ""


def versions_at(place: Place, packages: tuple[str, ...]) -> Mapping[str, str]:
    """The versions in the place: of packages, none of which is imported, or the image with its digest; none where
    nothing is known."""
    if place.image:
        return {"image": digest_of(place.image)}
    if not place.python:
        return {}
    return _versions(place.python, packages, Path(place.python).resolve().stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _versions(python: str, packages: tuple[str, ...], _changed_ns: int) -> Mapping[str, str]:
    asked = (
        "import importlib.metadata as m, json, sys; have = {d.metadata['Name'].lower().replace('_', '-') for d in "
        "m.distributions()}; print(json.dumps({n: m.version(n) for n in sys.argv[1:] if n in have}))"
    )
    try:
        done = subprocess.run(
            [python, "-I", "-c", asked, *packages], capture_output=True, text=True, timeout=30.0, check=False
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return found
