"""A trial that inherits its quality asks no quality prompt, and its record names the trial that was judged."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from harness.records import Candidate
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.run_folder import create_run
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from harness.trial.reference import Reference

SCENARIO = """\
name: s
space: [{engine: fake}]
quality: {prompts: 4}
workload: {requests: 8, warmup_requests: 0}
"""


@pytest.mark.heavy
def test_quality_is_asked_once_and_named(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO)
    resolved = resolve(load_scenario(path), path)
    new_run = partial(create_run, resolved, tmp_path / "results", "")
    known = Reference(answers={}, source="")
    with Bench.open(resolved, new_run, progress=Lines(lambda line: None), reference=known) as bench:
        first = bench.run(Candidate(block=0, engine="fake"), 1)
        second = bench.run(Candidate(block=0, engine="fake", workers=2), 2, judged=first)
        other = bench.run(Candidate(block=0, engine="fake", dtype="int8"), 3, judged=first)
        outputs = [bench.writer.layout.outputs(trial.trial_id).read_text() for trial in (first, second)]
    assert [trial.outcome for trial in (first, second, other)] == ["ok"] * 3, second.reason
    assert first.quality is not None
    assert second.quality is not None
    assert second.quality.inherited_from == first.trial_id
    assert second.quality.metrics == first.quality.metrics
    assert ["q:" in text for text in outputs] == [True, False]
    assert "quality" in first.phase_s
    assert "quality" not in second.phase_s
    assert other.is_judged, "it computes in something else than the one that was judged"
