"""An axis, a metric, a load kind or an engine that a stored patch adds is seen in every command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.additions import ADDITIONS, ROOT, SCENARIO, Addition
from tests.end_to_end.commands import LIMIT_S, environment_of


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.name)
def test_what_a_patch_adds_is_seen_in_every_command(addition: Addition, tmp_path: Path) -> None:
    tree = addition.patched_tree(tmp_path / "tree")
    where = _python(tree, "-c", "import engines, harness; print(engines.__file__, harness.__file__)").split()
    assert all(Path(place).is_relative_to(tree) for place in where), where
    scenario, results = tmp_path / "added.yaml", tmp_path / "results"
    scenario.write_text(SCENARIO)
    sets = [part for override in addition.uses for part in ("--set", override)]

    refused = _dyno(tree, "scenario", "check", str(scenario), *sets, "--set", addition.misspelt, expected=2)
    assert addition.refusal in refused
    seen = {"check": _dyno(tree, "scenario", "check", str(scenario), *sets)}
    seen["tune"] = _dyno(tree, "tune", str(scenario), *sets, "--no-verify", "--results", str(results))
    (run,) = (path.parent for path in results.rglob("run.json"))
    seen["report"] = _dyno(tree, "report", str(run), "--format", "markdown")
    seen["recommend"] = _dyno(tree, "recommend", str(run))
    for place, pattern in addition.seen.items():
        texts = [seen[place]] if place in seen else [path.read_text() for path in run.glob(place)]
        assert any(re.search(pattern, text) for text in texts), (place, pattern, texts)


IDS = """
from pathlib import Path
from engines.api import EngineSpec
from engines.serving_properties.write import spec_to_properties
from harness.records import Candidate
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve

path = Path("scenarios/smoke/fake-tiny.yaml")
print(resolve(load_scenario(path), path).digest, Candidate(block=0, engine="fake", workers=2).candidate_id)
print(spec_to_properties(EngineSpec(engine="fake", model_dir=path, source_root=path)))
"""


def test_an_axis_at_its_default_changes_no_digest_no_id_and_no_older_checkout_s_file(tmp_path: Path) -> None:
    axis = next(addition for addition in ADDITIONS if addition.name == "axis")
    before = _python(ROOT, "-c", IDS)
    assert _python(axis.patched_tree(tmp_path / "tree"), "-c", IDS) == before
    assert len(before.splitlines()) > 10


def _dyno(tree: Path, *arguments: str, expected: int = 0) -> str:
    return _python(tree, "-m", "harness", *arguments, expected=expected)


def _python(tree: Path, *arguments: str, expected: int = 0) -> str:
    """What a child process of the patched tree wrote, on both streams."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment_of(tree),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    text = done.stdout + done.stderr
    assert done.returncode == expected, text
    return text
