"""The check of files and container that a scenario names, before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.environments.locate import installed_python
from engines.registry import REFERENCE_ENGINE, REFERENCE_PACKAGES, traits
from engines.spec_check import package_availability
from harness.errors import ScenarioError, UsageError
from harness.load.schedule.trace import read_trace
from harness.properties.containers import container_names, parse_container
from harness.scenario.fields import did_you_mean, sentence
from harness.scenario.load import load_scenario
from harness.scenario.problems import read_text
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.scenario.schema import Scenario
from harness.scenario.yaml_nodes import parse


def checked_scenario(path: Path, overrides: Sequence[str] = ()) -> ResolvedScenario:
    """The scenario in `path`, `overrides` applied, whose files are there. Raises ScenarioError."""
    resolved = resolve(load_scenario(path, overrides), path)
    check_files(resolved)
    return resolved


def _no_reference(scenario: Scenario) -> str:
    """Why there are no reference answers; '' when there are, or when none are needed."""
    if not scenario.knows_model:
        return "the attached server's model is not known here: name it by model:"
    if not any(traits(block.engine).needs_reference for block in scenario.space):
        return ""
    availability = package_availability(REFERENCE_PACKAGES, REFERENCE_ENGINE)
    is_here = availability.is_available or installed_python(REFERENCE_ENGINE) is not None
    return "" if is_here else f"{REFERENCE_ENGINE}: {availability.reason}"


def check_files(resolved: ResolvedScenario) -> None:
    """Raises ScenarioError when the prompts file, the trace, the locustfile, the local model folder or the container
    does not exist, or when a quality is asked for that cannot be measured here."""
    lines = parse(read_text(resolved.path, "scenario")).lines
    wrong = []
    if not resolved.prompts_path.is_file():
        line = lines.get(("workload", "prompts"), 1)
        wrong.append(
            f"{resolved.path}:{line}: workload.prompts: expected a JSONL file, got {str(resolved.prompts_path)!r} "
            "(not there); the path is relative to the scenario file"
        )
    if resolved.trace_path is not None and not resolved.trace_path.is_file():
        line = lines.get(("workload", "load", "path"), 1)
        wrong.append(
            f"{resolved.path}:{line}: workload.load.path: expected a JSONL or CSV file, got "
            f"{str(resolved.trace_path)!r} (not there); the path is relative to the scenario file"
        )
    elif resolved.trace_path is not None:
        read_trace(resolved.trace_path)
    if resolved.locustfile_path is not None and not resolved.locustfile_path.is_file():
        line = lines.get(("workload", "locustfile"), 1)
        wrong.append(
            f"{resolved.path}:{line}: workload.locustfile: expected a Python file with User classes, got "
            f"{str(resolved.locustfile_path)!r} (not there); the path is relative to the scenario file"
        )
    if resolved.model.kind == "path" and not Path(resolved.model.value).is_dir():
        line = lines.get(("model", "path"), 1)
        wrong.append(
            f"{resolved.path}:{line}: model.path: expected a Hugging Face model folder, got {resolved.model.value!r} "
            "(not there); the path is relative to the scenario file"
        )
    if resolved.scenario.constraints.get("quality") == "Normal" and (missing := _no_reference(resolved.scenario)):
        line = lines.get(("constraints", "quality"), 1)
        wrong.append(
            f"{resolved.path}:{line}: constraints.quality: Normal cannot be shown without the reference's answers: "
            f"{missing}; or write quality: any"
        )
    container = resolved.scenario.recommend.container
    try:
        parse_container(container)
    except UsageError:
        line = lines.get(("recommend", "container"), 1)
        hint = did_you_mean(container, container_names()) or f"known: {', '.join(container_names())}"
        wrong.append(f"{resolved.path}:{line}: recommend.container: {sentence('a known container', container, hint)}")
    if wrong:
        raise ScenarioError("\n".join(wrong))
