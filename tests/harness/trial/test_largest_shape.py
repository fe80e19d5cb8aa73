"""A finalist is driven to the largest shape once: what it survives is noted, what ends a worker rules it out."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from harness.records import Candidate, Trial
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.run_folder import create_run
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from harness.trial.reference import Reference

SCENARIO = """\
name: s
space: [{engine: fake}]
quality: {prompts: 1}
workload: {prompts: p.jsonl, requests: 4, warmup_requests: 0, load: {kind: closed, users: 3}}
"""


def _trial(folder: Path, order: int) -> Trial:
    """Of a server whose worker dies of the longest of 40 prompts, which the load does not happen to draw."""
    path = folder / "s.yaml"
    path.write_text(SCENARIO)
    prompts = [{"id": f"p{number}", "prompt": f"say {number}"} for number in range(39)]
    prompts.append({"id": "long", "prompt": "a much longer prompt that goes on to boom"})
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    resolved = resolve(load_scenario(path), path)
    new_run = partial(create_run, resolved, folder / "results", "")
    known = Reference(answers={}, source="")
    with Bench.open(resolved, new_run, progress=Lines(lambda line: None), reference=known) as bench:
        candidate = Candidate(block=0, engine="fake", batch_size=2, options={"crash_on": "boom"})
        return bench.run(candidate, 1, order=order)


@pytest.mark.heavy
def test_a_finalist_that_dies_of_the_largest_shape_is_not_feasible(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "again").mkdir()
    searched = _trial(tmp_path / "first", order=0)
    assert searched.is_feasible, "the search did not drive it there"
    assert "largest shape" not in searched.phase_s
    finalist = _trial(tmp_path / "again", order=1)
    assert not finalist.is_feasible
    assert finalist.outcome == "ok", "the server itself lives, and starts its worker again"
    assert finalist.violations[0].startswith("largest shape (3 at once, 41 characters, 80 tokens) ended ")
    assert "3 of 3 failed, first HTTP 500" in finalist.violations[0]
