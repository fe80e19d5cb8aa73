"""A clean environment of a container's Python, with nothing but what a model folder's requirements.txt names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engines.processes.temp_folders import owned_folder

REQUIREMENTS = "requirements.txt"
IN_THE_IMAGE = ("numpy",)
"""What DJL Serving's worker itself imports, and every image of it holds."""
_INSTALL_S = 600.0
_LOOK_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanPython:
    """`program` is the interpreter ('': none was made); `sentence` states what was tried, or why nothing was."""

    program: str
    sentence: str


@contextmanager
def clean_python(wanted: str, folder: Path, needed: Sequence[str] = IN_THE_IMAGE) -> Iterator[CleanPython]:
    """An environment of Python `wanted` ('3.12') with the folder's requirements and `needed` installed; it is removed
    at the end. Never raises for what is missing here."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    program = _found(wanted)
    if not program:
        yield CleanPython(
            program="", sentence=f"the image's Python {wanted} is not on this machine, {here} ran instead"
        )
        return
    with owned_folder("python") as place:
        python = place / "bin" / "python"
        named = ["-r", str(folder / REQUIREMENTS)] if (folder / REQUIREMENTS).is_file() else []
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *named, *needed]
        if problem := _problem([program, "-m", "venv", str(place)]) or (_problem(install) if named or needed else ""):
            why = f"{REQUIREMENTS} could not be installed under the image's Python {wanted} ({problem})"
            yield CleanPython(program="", sentence=f"{why}, {here} ran instead")
            return
        yield CleanPython(
            program=str(python), sentence=f"with {REQUIREMENTS} alone in a clean Python {wanted}, the image's"
        )


def _found(wanted: str) -> str:
    """The interpreter of that version on the path, if it runs; ''."""
    program = shutil.which(f"python{wanted}")
    if program is None:
        return ""
    look = [program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        done = subprocess.run(look, capture_output=True, text=True, timeout=_LOOK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return program if done.stdout.strip() == wanted else ""


def _problem(command: Sequence[str]) -> str:
    """The last line of what failed; '' where nothing did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"status {done.returncode}")
