"""The part of a run that is handed over: axes, numbers and kinds of doubt of each trial, no sentence that may quote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.measure.metrics import metric_row
from harness.records import Metric, Trial
from harness.report.content.result_table import model_name
from harness.store.reader import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialNumbers:
    """One trial as it is handed over. `facts` and `axes` are short words; reasons, doubts, notes and errors are not
    among them, since a server's words may repeat a prompt. `answers` is the file of its answers, where there is one.
    """

    trial_id: str
    facts: Mapping[str, str]
    axes: Mapping[str, str]
    metrics: Mapping[str, Metric]
    answers: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNumbers:
    """One run as it is handed over; `trials` are those with numbers, in order, `left_out` counts the others."""

    scenario: str
    run: str
    facts: Mapping[str, str]
    trials: tuple[TrialNumbers, ...] = field(default=())
    left_out: int = 0


def numbers_of(run: Run) -> RunNumbers:
    """Everything that any of the stores takes."""
    manifest = run.manifest
    measured_by = manifest.imported.by if manifest.imported is not None else f"dyno {manifest.dyno_version}".strip()
    facts = {
        "model": model_name(run),
        "scenario_digest": manifest.digest,
        "created_utc": manifest.created_utc,
        "measured_by": measured_by,
        "machine": str(manifest.machine.get("cpu_model", "unknown")),
    }
    trials = tuple(_trial(run, trial) for trial in run.trials if trial.has_numbers)
    return RunNumbers(
        scenario=str(manifest.scenario.get("name", run.root.name)),
        run=run.root.name,
        facts=facts,
        trials=trials,
        left_out=len(run.trials) - len(trials),
    )


def _trial(run: Run, trial: Trial) -> TrialNumbers:
    metrics = dict(trial.summary.metrics) if trial.summary is not None else {}
    metrics.update(trial.quality.metrics if trial.quality is not None else {})
    facts = {
        "outcome": trial.outcome,
        "quality": trial.quality.verdict if trial.quality is not None else "not measured",
        "constraints": "broken" if trial.violations else "kept",
        "doubts": ", ".join(dict.fromkeys(doubt.kind for doubt in trial.doubts)) or "none",
        "limits": ", ".join(limit.kind for limit in trial.summary.limits or ()) if trial.summary is not None else "",
    }
    answers = run.layout.outputs(trial.trial_id)
    axes = {name: str(value) for name, value in trial.candidate.axes().items() if value is not None}
    return TrialNumbers(
        trial_id=trial.trial_id,
        facts={name: value for name, value in facts.items() if value},
        axes=axes,
        metrics={name: metric for name, metric in metrics.items() if metric.value == metric.value},
        answers=answers if answers.is_file() else None,
    )


def meaning(name: str) -> str:
    """What a metric means, for whoever meets it elsewhere."""
    row = metric_row(name)
    return row.help if row is not None else name
