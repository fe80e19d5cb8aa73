"""`dyno gate` before it measures."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import gate

SCENARIO = Path(__file__).parents[3] / "scenarios" / "gate.yaml"


def test_an_environment_that_its_list_has_left_behind_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gate, "why_stale", lambda engine, python: f"{engine} is old")
    done = CliRunner().invoke(gate.command, ["--scenario", str(SCENARIO), "--baseline-ref", str(tmp_path / "nowhere")])
    assert done.stderr.count("warning: t5 is old") == 1
    assert done.exception is not None, "there is no such checkout"
