"""The CI examples are real: YAML parses, every command and option exists, the rules load, the script's codes hold."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness.cli.gate import command
from harness.gate.compare import budget_text
from harness.gate.rules import Rules
from harness.gate.rules_file import load_rules
from harness.measure.metrics import metric_row
from harness.scenario.yaml_nodes import parse

GATE = Path(__file__).parents[3] / "harness" / "gate"
CI = GATE / "ci"


def test_the_workflow_parses_and_its_steps_use_or_run_something() -> None:
    document = parse((CI / "github-actions.yml").read_text())
    assert not document.problems
    jobs = document.value["jobs"]
    assert set(jobs) == {"side-by-side", "stored"}
    for job in jobs.values():
        assert all("run" in step or "uses" in step for step in job["steps"])


@pytest.mark.parametrize("name", ["ci/github-actions.yml", "ci/gate.sh", "README.md"])
def test_every_option_of_the_examples_exists(name: str) -> None:
    known = {option for parameter in command.params for option in parameter.opts}
    used = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", (GATE / name).read_text()))
    assert used
    assert used <= known


def test_the_example_rules_load_and_the_readme_lists_the_defaults() -> None:
    assert load_rules(CI / "rules.yaml").budgets()["latency_p99_ms"].relative == 0.08
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", (GATE / "README.md").read_text(), re.M))
    wanted = {}
    for name, budget in Rules().budgets().items():
        row = metric_row(name)
        assert row is not None
        wanted[name] = budget_text(budget, row.unit, is_larger_better=row.better == "maximize")
    assert rows == wanted


@pytest.mark.heavy
@pytest.mark.parametrize(("code", "strict", "ends"), [(0, 0, 0), (1, 0, 1), (4, 0, 0), (4, 1, 4), (3, 0, 3)])
def test_the_script_fails_on_a_regression_and_on_cannot_tell_only_if_asked(
    tmp_path: Path, code: int, strict: int, ends: int
) -> None:
    stand_in = tmp_path / "dyno"
    stand_in.write_text(f"#!/bin/sh\nexit {code}\n")
    stand_in.chmod(0o755)
    env = {"DYNO": str(stand_in), "BASELINE": ".", "STRICT": str(strict), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([str(CI / "gate.sh")], env=env, capture_output=True, text=True)
    assert done.returncode == ends, done.stdout
