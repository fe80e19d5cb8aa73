"""Lint for values that one machine or folder can serve and another cannot: GPUs, memory, an interpreter, a script.

Without a `Place` they are warnings; with one, a value that cannot be served there is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from harness.properties.lint.records import Finding, LintInput

_GPU = re.compile(r"(?:gpu)?(\d{1,9})")
_ROLLS = re.compile(r"rolling|djl_python\.(?!inputs|outputs)\w")
"""Signs of a handler that answers rolling batches: the word, or one of upstream's handlers that it builds on."""


def place_findings(given: LintInput) -> Iterator[Finding]:
    """At the line of each value that needs something of the machine or the folder."""
    if given.container.is_own:
        return
    yield from _gpus(given)
    yield from _memory(given)
    yield from _interpreter(given)
    yield from _script(given)


def _gpus(given: LintInput) -> Iterator[Finding]:
    key = "load_on_devices"
    named = [int(match[1]) for part in re.split(r"[;+]", given.values.get(key, "")) if (match := _GPU.fullmatch(part))]
    if not named:
        return
    needed = max(named) + 1
    if given.place is None:
        yield given.warning(
            key, f"needs a machine with {needed} GPU(s): the server ends at start where there are fewer"
        )
    elif given.place.gpus < needed:
        yield given.error(key, f"needs {needed} GPU(s), this machine has {given.place.gpus}: the server ends at start")


def _memory(given: LintInput) -> Iterator[Finding]:
    for name in ("required_memory_mb", "reserved_memory_mb"):
        for key in (name, f"gpu.{name}"):
            value = given.values.get(key, "")
            if not re.fullmatch(r"\d{1,18}", value):
                continue
            if given.place is None or key != name:
                yield given.warning(key, "the server ends at start where less memory than that is free")
            elif int(value) > given.place.memory_mib:
                has = f"{given.place.memory_mib} MiB"
                yield given.error(key, f"{value} MB is beyond this machine's {has}: the server ends at start")


def _interpreter(given: LintInput) -> Iterator[Finding]:
    key = "option.pythonExecutable"
    value = given.values.get(key, "")
    if not value.startswith("/"):
        return
    if given.place is None:
        yield given.warning(key, "must exist in the container: the server ends at start where it does not")
    elif not Path(value).is_file():
        yield given.error(key, f"{value} is not on this machine: the server ends at start")


def _script(given: LintInput) -> Iterator[Finding]:
    key = "option.entryPoint"
    name = given.values.get(key, "").strip()
    if name.endswith(".py") and given.place is None and name != "model.py":
        yield given.warning(key, f"the server ends at start unless {name} is beside the file")
    elif name.endswith(".py") and given.place is not None and not (given.place.folder / PurePosixPath(name)).is_file():
        yield given.error(key, f"{name} is not in {given.place.folder}: the server ends at start")
    rolling = given.values.get("option.rolling_batch", "").strip()
    if given.script and rolling not in ("", "disable") and not _ROLLS.search(given.script.lower()):
        if given.place is None:
            yield given.warning(
                "option.rolling_batch", "the server is ready only if the model.py answers rolling batches"
            )
        else:
            yield given.error(
                "option.rolling_batch",
                "the model.py beside the file answers no rolling batch: the server is never ready; write disable",
            )
