"""What is refused before anything is measured because of what a scenario names."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.space.check_files import checked_scenario

SCENARIO = "name: s\nspace: [{engine: %s}]\nconstraints:\n  quality: %s\n"


@pytest.mark.parametrize(
    ("engine", "quality", "is_refused"), [("t5", "Normal", True), ("t5", "any", False), ("fake", "Normal", False)]
)
def test_a_quality_that_nothing_can_show_is_refused(
    engine: str, quality: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.spec_check.find_spec", lambda name: None)
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))  # with no environment installed
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO % (engine, quality))
    if not is_refused:
        assert checked_scenario(path).path == path
        return
    with pytest.raises(
        ScenarioError, match=r"s\.yaml:4: constraints\.quality: .* torch, transformers not installed: pip install"
    ):
        checked_scenario(path)
