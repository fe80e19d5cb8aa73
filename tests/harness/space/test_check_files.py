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
    monkeypatch.setattr("engines.environments.packages.find_spec", lambda name: None)
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


def test_prompts_and_trace_are_read_to_their_ends_and_every_mistake_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": ""}\n[]\n')
    (tmp_path / "t.csv").write_text("timestamp_s,input_tokens\n0,5\n1,five\n")
    path = tmp_path / "s.yaml"
    load = "workload: {prompts: p.jsonl, load: {kind: trace, path: t.csv}}\nrecommend: {container: none-1}\n"
    path.write_text("name: s\nspace: [{engine: fake}]\n" + load)
    with pytest.raises(ScenarioError) as caught:
        checked_scenario(path)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        f"{tmp_path}/p.jsonl:2: \"prompt\" must be a non-empty string, got ''",
        f'{tmp_path}/p.jsonl:3: expected an object with "prompt", got list',
        f"{tmp_path}/t.csv:3: expected input_tokens as a whole number from 0 to 1,000,000, got 'five'",
    ]
    assert lines[3].startswith(f"{path}:4: recommend.container: expected a known container, got 'none-1'")
