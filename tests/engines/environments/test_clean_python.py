"""The clean environment of a container's Python: made, or why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engines.environments.clean_python import clean_python

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def _on_the_path(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / f"python{HERE}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.heavy
@pytest.mark.parametrize("script", ["exit 127", "echo 3.1"])
def test_an_interpreter_that_is_not_there_or_another_is_said(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_the_path(tmp_path, script, monkeypatch)
    with clean_python(HERE, tmp_path) as made:
        assert made.program == ""
        assert made.sentence == f"the image's Python {HERE} is not on this machine, {HERE} ran instead"


@pytest.mark.heavy
def test_it_holds_nothing_but_the_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _on_the_path(tmp_path, f'exec {sys.executable} "$@"', monkeypatch)
    (tmp_path / "requirements.txt").write_text("# none\n")
    with clean_python(HERE, tmp_path, needed=()) as made:
        assert made.sentence == f"with requirements.txt alone in a clean Python {HERE}, the image's"
        look = [
            made.program,
            "-c",
            "import importlib.util as u; print(u.find_spec('numpy'), u.find_spec('pip') is None)",
        ]
        assert subprocess.run(look, capture_output=True, text=True, check=True).stdout.split() == ["None", "False"]
    assert not Path(made.program).exists()


@pytest.mark.heavy
def test_what_cannot_be_made_is_said_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _on_the_path(tmp_path, f'[ "$1" = -c ] && echo {HERE} || {{ echo no venv here >&2; exit 1; }}', monkeypatch)
    with clean_python(HERE, tmp_path) as made:
        assert made.program == ""
        tried = f"requirements.txt could not be installed under the image's Python {HERE} (no venv here)"
        assert made.sentence == f"{tried}, {HERE} ran instead"
