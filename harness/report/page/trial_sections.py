"""The HTML page's section on each trial: every number with its estimator, the raw JSON, the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.measure.metrics import metric_row
from harness.records import Metric, Trial
from harness.report.content.numbers import ABSENT, interval_cell, metric_text
from harness.report.content.titles import metric_title
from harness.report.page.elements import anchor, definitions, link, part, text
from harness.store.codec import to_json
from harness.store.reader import Run
from harness.wording import label

SECTIONS = 200
"""Trials with their own section: about 10 KB each. The rest is in trials.jsonl, line by line."""
TAILS = 40
"""Failed trials whose log is embedded."""
TAIL_LINES, TAIL_BYTES = 60, 8000


def trial_sections(run: Run, trials: Sequence[Trial], base: Path) -> str:
    """Every trial of `trials` (what has a section), folded; `base` is the folder of the page."""
    if not trials:
        return part("trials", "Every trial, raw", "<p>The run holds no trial.</p>")
    lines = {trial.trial_id: number for number, trial in enumerate(run.trials, start=1)}
    shown = "".join(_trial(run, trial, base, lines.get(trial.trial_id)) for trial in trials)
    shown_ids = {trial.trial_id for trial in trials}
    left = sum(trial.trial_id not in shown_ids for trial in run.trials)
    source = link(run.layout.trials_jsonl, base, "trials.jsonl")
    lead = f"<p>Each number of this page links here. Recorded line by line in {source}.</p>"
    more = (
        f'<p class="note">{len(run.trials) - left} of {len(run.trials)} trials have a section: those of the result '
        f"table in its order, then failures, to keep the page small; {source} has every one.</p>"
        if left
        else ""
    )
    return part("trials", "Every trial, raw", lead + more + f'<div class="trials">{shown}</div>')


def _trial(run: Run, trial: Trial, base: Path, line: int | None) -> str:
    number = f"{trial.number}" if line is not None else "✓"
    outcome = "" if trial.outcome == "ok" else f' <span class="tag failed">{text(trial.outcome)}</span>'
    if line is None:
        outcome += ' <span class="tag good">verification</span>'
    if trial.violations:
        outcome += ' <span class="tag broke">broke constraint</span>'
    facts = definitions(_facts(run, trial, base, line))
    return (
        f'<details class="trial" id="{anchor(trial.trial_id)}"><summary><span class="no">{number}</span> '
        f'<span class="what">{text(label(trial.candidate))}</span>{outcome} '
        f"<code>{text(trial.trial_id)}</code></summary>"
        f'<div class="inside">{facts}{_metrics(trial)}{_raw(trial)}</div></details>'
    )


def _facts(run: Run, trial: Trial, base: Path, line: int | None) -> list[tuple[str, str]]:
    layout = run.layout
    files = [
        link(layout.requests(trial.trial_id), base, "requests (Parquet)"),
        link(layout.telemetry(trial.trial_id), base, "telemetry (Parquet)"),
        link(layout.outputs(trial.trial_id), base, "answers"),
        link(layout.logs(trial.trial_id), base, "logs"),
    ]
    kept = [one for one in files if one.startswith("<a")]
    recorded = f"{link(layout.trials_jsonl, base, 'trials.jsonl')}, line {line}" if line is not None else ""
    rows = [
        ("raw data", ", ".join([*([recorded] if recorded else []), *kept]) or "none left"),
        ("started", text(trial.started_utc)),
        ("reason", text(trial.reason)),
        ("broke", text("; ".join(trial.violations))),
        ("in doubt", text("; ".join(doubt.sentence for doubt in trial.doubts))),
        *(
            (names, text(f"unavailable: {why}"))
            for names, why in (trial.summary.unavailable.items() if trial.summary is not None else ())
        ),
        ("computed in", text(trial.effective_dtype)),
        ("quality", text(f"{trial.quality.verdict}: {trial.quality.reason}") if trial.quality is not None else ""),
        ("engine", text(", ".join(f"{name} {version}" for name, version in trial.versions.items()))),
        ("notes", text("; ".join(trial.notes))),
        ("seconds", text(", ".join(f"{name} {seconds:.2f}" for name, seconds in trial.phase_s.items()))),
    ]
    return [(key, value) for key, value in rows if value]


def _metrics(trial: Trial) -> str:
    found: dict[str, Metric] = dict(trial.summary.metrics) if trial.summary is not None else {}
    found.update(trial.quality.metrics if trial.quality is not None else {})
    if not found:
        return "<p>No numbers: it did not get as far as being measured.</p>"
    rows = "".join(_metric(name, metric) for name, metric in found.items())
    heads = "".join(
        f'<th scope="col"{kind}>{title}</th>'
        for title, kind in (
            ("Metric", ""),
            ("Value", ' class="num"'),
            ("95 % interval", ' class="num"'),
            ("n", ' class="num"'),
            ("How", ""),
        )
    )
    name = f"Metrics of {text(trial.trial_id)}"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _metric(name: str, metric: Metric) -> str:
    row = metric_row(name)
    title = f' title="{text(row.help)}"' if row is not None else ""
    scale = 100 if metric.unit == "frac" else 1
    ends = Metric(
        value=metric.value * scale, unit=metric.unit, estimator="", n=metric.n,
        low=None if metric.low is None else metric.low * scale,
        high=None if metric.high is None else metric.high * scale,
    )  # fmt: skip
    how = metric.estimator + (f"; {metric.note}" if metric.note else "")
    shown = metric_text(metric) if metric.value == metric.value else ABSENT
    return (
        f'<tr><th scope="row"{title}>{text(metric_title(name, metric.unit))}</th><td class="num">{text(shown)}</td>'
        f'<td class="num">{text(interval_cell(ends))}</td><td class="num">{metric.n}</td>'
        f'<td class="how">{text(how)}</td></tr>'
    )


def _raw(trial: Trial) -> str:
    raw = json.dumps(to_json(trial), indent=1, ensure_ascii=False)
    return f"<details><summary>As recorded (JSON)</summary><pre>{text(raw)}</pre></details>"


def failures(run: Run, trials: Sequence[Trial], base: Path, linked: frozenset[str]) -> str:
    """Trials without numbers, each with its reason and the end of its log; '' when there is none."""
    failed = [trial for trial in trials if trial.outcome != "ok"]
    if not failed:
        return part("failures", "Failures", "<p>None: every trial that was started gave numbers.</p>")
    shown = []
    for place, trial in enumerate(failed):
        tail = log_tail(run, trial.trial_id) if place < TAILS else ""
        logs = link(run.layout.logs(trial.trial_id), base, "log folder")
        log = f"<details><summary>End of its log</summary><pre>{text(tail)}</pre></details>" if tail else (
            '<p class="note">It left no log.</p>' if place < TAILS else f'<p class="note">{logs}</p>')  # fmt: skip
        name = text(trial.trial_id)
        name = f'<a href="#{anchor(trial.trial_id)}">{name}</a>' if trial.trial_id in linked else name
        shown.append(
            f'<article class="failure"><h3><span class="tag failed">{text(trial.outcome)}</span> '
            f"{text(label(trial.candidate))}</h3>"
            f'<p>{text(trial.reason)}</p><p class="note">{name} · {logs}</p>{log}</article>'
        )
    return part("failures", "Failures", "".join(shown))


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
