"""The HTML page's section on each trial: every number with its estimator, the raw JSON, the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.measure.metrics import metric_row
from harness.race import Race
from harness.records import Metric, Trial
from harness.report.page.elements import Link, Part, anchor, link
from harness.report.page.templates import render
from harness.report.wording.limits import limits_text
from harness.report.wording.numbers import ABSENT, interval_cell, metric_text
from harness.report.wording.prefix_caches import cache_text
from harness.report.wording.titles import metric_title
from harness.store.codec import to_json
from harness.store.reader import Run
from harness.wording import chat_text, label

SECTIONS = 200
"""Trials with their own section: about 10 KB each. The rest is in trials.jsonl, line by line."""
TAILS = 40
"""Failed trials whose log is embedded."""
INTERVAL = "95 % interval"
TAIL_LINES, TAIL_BYTES = 60, 8000


def trial_sections(run: Run, trials: Sequence[Trial], base: Path) -> Part:
    """Every trial of `trials` (what has a section), folded; `base` is the folder of the page."""
    lines = {trial.trial_id: number for number, trial in enumerate(run.trials, start=1)}
    with_section = {trial.trial_id for trial in trials}
    inner = render(
        "trials.html",
        trials=[_trial(run, trial, base, lines.get(trial.trial_id)) for trial in trials],
        total=len(run.trials),
        left=sum(trial.trial_id not in with_section for trial in run.trials),
        source=link(run.layout.trials_jsonl, base, "trials.jsonl"),
    )
    return Part(key="trials", title="Every trial, raw", inner=inner)


def _trial(run: Run, trial: Trial, base: Path, line: int | None) -> dict[str, Any]:
    """What the template shows of a trial; the verification has no `line` in trials.jsonl."""
    return {
        "anchor": anchor(trial.trial_id),
        "id": trial.trial_id,
        "number": trial.number,
        "line": line,
        "label": label(trial.candidate),
        "outcome": trial.outcome,
        "is_broke": bool(trial.violations),
        "files": _files(run, trial, base),
        "facts": _facts(trial),
        "interval": INTERVAL if trial.race is None else f"{INTERVAL}, of the race a bound ({_sure(trial.race)})",
        "metrics": _metrics(trial),
        "raw": json.dumps(to_json(trial), indent=1, ensure_ascii=False),
    }


def _sure(race: Race) -> str:
    """How sure a race's bound is: more than 95 %, since a search has many races."""
    return f"{100 - 100 * race.level:.4g} %"


def _files(run: Run, trial: Trial, base: Path) -> list[Link]:
    """Those of the trial's files that are still there."""
    layout = run.layout
    files = [
        link(layout.requests(trial.trial_id), base, "requests (Parquet)"),
        link(layout.telemetry(trial.trial_id), base, "telemetry (Parquet)"),
        link(layout.engine_metrics(trial.trial_id), base, "the server's metrics (Parquet)"),
        link(layout.outputs(trial.trial_id), base, "answers"),
        link(layout.logs(trial.trial_id), base, "logs"),
    ]
    return [one for one in files if one.href]


def _facts(trial: Trial) -> list[tuple[str, str]]:
    unavailable = trial.summary.unavailable if trial.summary is not None else {}
    return [
        ("started", trial.started_utc),
        ("reason", trial.reason),
        ("broke", "; ".join(trial.violations)),
        ("limited by", limits_text(trial.summary.limits) if trial.summary is not None else ""),
        ("prefix cache", cache_text(trial.summary)),
        ("in doubt", "; ".join(doubt.sentence for doubt in trial.doubts)),
        *((names, f"unavailable: {why}") for names, why in unavailable.items()),
        ("computed in", trial.effective_dtype),
        ("chat", chat_text(trial.chat) if trial.chat is not None else ""),
        ("quality", f"{trial.quality.verdict}: {trial.quality.reason}" if trial.quality is not None else ""),
        ("engine", ", ".join(f"{name} {version}" for name, version in trial.versions.items())),
        ("notes", "; ".join(trial.notes)),
        ("seconds", ", ".join(f"{name} {seconds:.2f}" for name, seconds in trial.phase_s.items())),
    ]


def _metrics(trial: Trial) -> list[dict[str, Any]]:
    found: dict[str, Metric] = dict(trial.summary.metrics) if trial.summary is not None else {}
    found.update(trial.quality.metrics if trial.quality is not None else {})
    return [_metric(name, metric) for name, metric in found.items()]


def _metric(name: str, metric: Metric) -> dict[str, Any]:
    row = metric_row(name)
    scale = 100 if metric.unit == "frac" else 1
    ends = Metric(
        value=metric.value * scale, unit=metric.unit, estimator="", n=metric.n, method=metric.method,
        low=None if metric.low is None else metric.low * scale,
        high=None if metric.high is None else metric.high * scale,
    )  # fmt: skip
    return {
        "help": row.help if row is not None else None,
        "title": metric_title(name, metric.unit),
        "value": metric_text(metric) if metric.value == metric.value else ABSENT,
        "interval": interval_cell(ends),
        "n": metric.n,
        "how": metric.estimator + (f"; {metric.note}" if metric.note else ""),
    }


def failures(run: Run, trials: Sequence[Trial], base: Path, linked: frozenset[str]) -> Part:
    """Trials without numbers, each with its reason and the end of its log."""
    failed = []
    for place, trial in enumerate(trial for trial in trials if not trial.has_numbers):
        is_tail_read = place < TAILS
        failed.append(
            {
                "outcome": trial.outcome,
                "label": label(trial.candidate),
                "reason": trial.reason,
                "trial": Link(trial.trial_id, f"#{anchor(trial.trial_id)}" if trial.trial_id in linked else ""),
                "logs": link(run.layout.logs(trial.trial_id), base, "log folder"),
                "is_tail_read": is_tail_read,
                "tail": log_tail(run, trial.trial_id) if is_tail_read else "",
            }
        )
    return Part(key="failures", title="Failures", inner=render("failures.html", failed=failed))


def log_tail(run: Run, trial_id: str) -> str:
    """The last lines of the engine's log, and of the load generator's if it has one; '' when there is none."""
    folder = run.layout.logs(trial_id)
    parts = []
    for path in [folder / "server.log", *sorted(folder.glob("load/*.log"))]:
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL_BYTES))
                lead = file.read().decode("utf-8", "replace").strip()
        except OSError:
            continue  # the folder's link says that it is missing
        if lead:
            parts.append(f"[{path.relative_to(folder)}]\n" + "\n".join(lead.splitlines()[-TAIL_LINES:]))
    return "\n\n".join(parts)
