"""Writing the recommendation's files: one folder per container below the run's recommendation/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MeasurementInvalid
from harness.properties.lint.findings import lint
from harness.properties.lint.records import Finding, model_facts
from harness.properties.render import PROPERTIES, Source, render
from harness.records import Recommendation
from harness.store.codec import to_json
from harness.store.disk import write_text
from harness.store.reader import Run

ANSWER = "recommendation.json"
OWN = "dynamometer-0.1"
"""Where a scenario is served that names no container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files of one container: serving.properties first. `warnings` are our own linter's."""

    container: str
    paths: tuple[Path, ...]
    warnings: tuple[Finding, ...]

    @property
    def properties_path(self) -> Path:
        """The serving.properties."""
        return self.paths[0]


def scenario_container(run: Run) -> str:
    """The container the run's scenario is tuned for."""
    section = run.manifest.scenario.get("recommend")
    return str(section.get("container", OWN)) if isinstance(section, Mapping) else OWN


def write_recommendation(run: Run, recommendation: Recommendation, container: str, out: Path | None = None) -> Written:
    """Write serving.properties (and what it needs) for `container` into `out`, with recommendation.json beside them.

    By default `out` is the run's recommendation/ for the container its scenario names, and recommendation/<container>/
    for any other. Each file appears whole or not at all.

    Raises UsageError when the container cannot serve it, EnvironmentFault when the disk refuses.
    """
    top = run.layout.recommendation_dir
    folder = out if out is not None else top if container == scenario_container(run) else top / container
    source = Source(run_name=run.root.name, manifest=run.manifest, trial=recommendation.trial)
    rendered = render(source, container)
    facts = model_facts(Path(str(source.model.get("value", "")))) if source.model.get("kind") == "path" else None
    findings = lint(rendered[PROPERTIES], container, facts, rendered.get("model.py", ""))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        faults = "; ".join(f"{finding.key}: {finding.message}" for finding in errors)
        raise MeasurementInvalid(
            f"trial {recommendation.trial.trial_id} cannot be written for {container}: {faults}; "
            "choose another container"
        )
    paths = []
    for name in (PROPERTIES, *(name for name in rendered if name != PROPERTIES)):
        write_text(folder / name, rendered[name])
        paths.append(folder / name)
    write_text(folder / ANSWER, json.dumps(to_json(recommendation), indent=2, sort_keys=True) + "\n")
    return Written(container=container, paths=(*paths, folder / ANSWER), warnings=tuple(findings))
