"""Writing the recommendation's files: one folder per container below the run's recommendation/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engines.api import MODEL_FOLDER, START_FILE
from engines.registry import traits
from harness.errors import MeasurementInvalid, UsageError
from harness.properties.containers import parse_container
from harness.properties.lint.findings import lint
from harness.properties.lint.records import Finding, model_facts
from harness.properties.model_folder import put_model, variables_beside
from harness.properties.queue_order import is_measured_order, order_notes
from harness.properties.render import OWN, PROPERTIES, Source, inside_the_endpoint, render, scenario_container
from harness.recommendation import Recommendation
from harness.store.codec import to_json
from harness.store.disk import write_text
from harness.store.reader import Run

ANSWER = "recommendation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files of one container: serving.properties first, or the START_FILE of a server that reads none. `warnings`
    are our own linter's; `order_note` states which latencies are not promised there, where that server takes waiting
    requests in another order than the measured one; `variables` are what the container needs beside them."""

    container: str
    paths: tuple[Path, ...]
    warnings: tuple[Finding, ...]
    order_note: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def properties_path(self) -> Path:
        """The serving.properties, or what stands in its place."""
        return self.paths[0]


def write_recommendation(
    run: Run, recommendation: Recommendation, container: str, out: Path | None = None, *, has_model: bool = True
) -> Written:
    """Write serving.properties (and what it needs) for `container` into `out`, with recommendation.json beside them.

    By default `out` is the run's recommendation/ for the container its scenario names, and recommendation/<container>/
    for any other. For a container of DJL's the model comes beside the files, unless `has_model` is false. Each file
    appears whole or not at all.

    Raises UsageError when the container cannot serve it or the model is gone, EnvironmentFault when the disk refuses.
    """
    top = run.layout.recommendation_dir
    folder = out if out is not None else top if container == scenario_container(run.manifest) else top / container
    if traits(recommendation.trial.candidate.engine).has_start_file and parse_container(container).is_own:
        return _write_start_file(run, recommendation, container, folder)
    source = inside_the_endpoint(source_of(run, recommendation))
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
    target = parse_container(container)
    came: tuple[Path, ...] = ()
    if has_model and not target.is_own:
        came = put_model(source, target, measured_folder(run, recommendation), folder)
    paths = []
    for name in (PROPERTIES, *(name for name in rendered if name != PROPERTIES)):
        write_text(folder / name, rendered[name])
        paths.append(folder / name)
    answer = _write_answer(folder, recommendation, container)
    measured = recommendation.trial.queue_order
    notes = [] if is_measured_order(measured, target, has_lists=source.has_lists) else order_notes(measured, target)
    paths += [path for path in came if path not in paths]
    return Written(
        container=container,
        paths=(*paths, answer),
        warnings=tuple(findings),
        order_note=" ".join(notes),
        variables=variables_beside(source, target),
    )


def source_of(run: Run, recommendation: Recommendation) -> Source:
    """The evidence of the recommendation."""
    return Source(run_name=run.root.name, manifest=run.manifest, trial=recommendation.trial)


def measured_folder(run: Run, recommendation: Recommendation) -> Path:
    """Where the trial's own launch wrote a model folder, if it did."""
    return run.layout.logs(recommendation.trial.trial_id) / MODEL_FOLDER


def _write_start_file(run: Run, recommendation: Recommendation, container: str, folder: Path) -> Written:
    """The script with which the measured server was described when it was launched. Raises UsageError."""
    launched = run.layout.logs(recommendation.trial.trial_id) / START_FILE
    try:
        script = launched.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{launched}: {error.strerror}; measure the candidate again, then recommend") from error
    write_text(folder / START_FILE, script)
    (folder / START_FILE).chmod(0o755)
    answer = _write_answer(folder, recommendation, container)
    return Written(container=container, paths=(folder / START_FILE, answer), warnings=())


def _write_answer(folder: Path, recommendation: Recommendation, container: str) -> Path:
    answer = {**to_json(recommendation), "container": container}
    write_text(folder / ANSWER, json.dumps(answer, indent=2, sort_keys=True) + "\n")
    return folder / ANSWER


def written_for(folder: Path) -> str:
    """The container that the recommendation in `folder` was written for; our own server where none is named.

    Raises UsageError for a file that is no recommendation.
    """
    path = folder / ANSWER
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found.get("container", OWN))
    except FileNotFoundError:
        return OWN
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: no recommendation ({error}); name --container, or remove it") from error
