"""One definition of the checks: workflows, hooks and Makefile call steps of .ci/checks, and no hook is downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from harness.scenario.yaml_nodes import parse

ROOT = Path(__file__).parents[2]
STEPS = set(re.findall(r"^    ([a-z]+)\) ", (ROOT / ".ci" / "checks").read_text(encoding="utf-8"), re.M))
STATIC = {"format", "lint", "types", "contracts", "workflows"}


def test_every_step_that_the_makefile_names_exists() -> None:
    used = re.findall(r"\.ci/checks ([a-z+ ]+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {step for steps in used for step in re.split(r"[ +]", steps)} == STEPS


def test_the_hooks_are_the_static_steps_and_local() -> None:
    (repository,) = parse((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")).value["repos"]
    assert repository["repo"] == "local"
    assert {hook["entry"] for hook in repository["hooks"]} == {f".ci/checks {step}" for step in STATIC}
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def test_the_workflows_run_what_a_developer_types() -> None:
    for name, command in (("check", "make check TORCH_INDEX="), ("test", ".ci/run")):
        document = parse((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
        assert not document.problems
        steps = document.value["jobs"][name]["steps"]
        assert steps[-1]["run"].startswith(command)
