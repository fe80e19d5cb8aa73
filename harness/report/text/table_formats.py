"""The table formats of a report: terminal text, markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.measure.metrics import METRICS, metric_of
from harness.records import Metric, Trial
from harness.report.content.result_table import HIGH_PRIORITY, Column, ReportTable, model_name, served_model
from harness.store.codec import to_json
from harness.store.reader import Run

_STYLE = {
    "best": "bold green",
    "tie": "green",
    "broke constraint": "dim",
    "ended early": "dim",
    "probed": "dim",
    "not ranked": "dim",
    "": "",
}
_SIGN = {
    "best": "★", "tie": "≈", "broke constraint": "✗", "ended early": "⋯", "probed": "·", "not ranked": "⊘", "": "",
}  # fmt: skip
UNBOUNDED_WIDTH = 400
"""Columns given to a pipe: nothing is left out and nothing wraps there."""


def stdout_console() -> Console:
    """A console as wide as the terminal; a pipe gets every column."""
    return Console() if sys.stdout.isatty() else Console(width=UNBOUNDED_WIDTH, no_color=True)


def print_table(table: ReportTable, console: Console) -> None:
    """The table, as many columns as fit, then failed trials and notes."""
    same = _same_everywhere(table) if _published_width(table) > console.width else []
    kept = _fitting(table, console.width, same)
    needed = sum(_width(table, index) + 2 for index in kept)
    console.width = max(console.width, needed)  # a cell cut short would mislead more than a wrapped line
    shown = Table(title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index in kept:
        column = table.columns[index]
        shown.add_column(_head(column), justify="right" if column.is_number else "left", no_wrap=True)
    for row in table.rows:
        cells = [_SIGN[row.mark] if index == 0 else _broken(row.cells[index]) for index in kept]
        shown.add_row(*map(Text, cells), style=_STYLE[row.mark])
    console.print(shown)
    legend = [
        f"{_SIGN[mark]} {mark}"
        for mark in ("best", "tie", "broke constraint", "ended early", "probed", "not ranked")
        if _has(table, mark)
    ]
    if legend:
        console.print(Text("   ".join(legend), style="dim"))
    if same:
        constants = ", ".join(f"{table.columns[index].title} {table.rows[0].cells[index]}" for index in same)
        _print(console, f"The same everywhere: {constants}", "dim")
    for failure in table.failures:
        console.print(
            Text(f"{failure.outcome}: {failure.label} ({failure.trial_id}): {failure.reason}"), soft_wrap=True
        )
    for note in table.notes:
        _print(console, f"Note: {note}", "dim")
    names = ", ".join(c.title for i, c in enumerate(table.columns) if i not in kept and i not in same)
    if names:
        console.print(
            Text(f"Left out for want of width: {names} (--format csv has everything)", style="dim"), soft_wrap=True
        )


def _print(console: Console, text: str, style: str = "") -> None:
    """One line, which the terminal may wrap but a pipe gets whole."""
    console.print(Text(text, style=style), soft_wrap=True)


def as_markdown(table: ReportTable) -> str:
    """A GitHub table, failed trials as a second one, notes as a list."""
    heads = [column.title for column in table.columns]
    lines = [f"### {table.title}", "", markdown_row(heads)]
    lines.append(markdown_row(["---:" if column.is_number else "---" for column in table.columns]))
    for row in table.rows:
        cells = [f"**{cell}**" if row.mark == "best" and cell else cell for cell in row.cells]
        lines.append(markdown_row(cells))
    if table.failures:
        lines += ["", "Trials without numbers:", "", markdown_row(["Trial", "Candidate", "Outcome", "Reason"])]
        lines.append(markdown_row(["---"] * 4))
        lines += [markdown_row([f.trial_id, f.label, f.outcome, f.reason]) for f in table.failures]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def as_csv(run: Run, table: ReportTable) -> str:
    """Every trial and every metric with its interval and n; units are in the column names."""
    trials, marks = _all_trials(run, table)
    axes = sorted({name for trial in trials for name in trial.candidate.axes()}, key=_axis_order)
    names = [name for name in _metric_names(trials)]
    heads = ["trial_id", "candidate_id", "choice", "model", *axes, "effective_dtype", "outcome", "reason", "quality"]
    heads += [f"{name}{suffix}" for name in names for suffix in ("", "_low", "_high", "_n")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*heads, "violations", "distrust"])
    for trial in trials:
        cells: list[Any] = [
            trial.trial_id,
            trial.candidate.candidate_id,
            marks.get(trial.trial_id, ""),
            served_model(trial) or model_name(run),
        ]
        values = trial.candidate.axes()
        cells += [values.get(axis) for axis in axes]
        verdict = trial.quality.verdict if trial.quality is not None else ""
        cells += [trial.effective_dtype, trial.outcome, trial.reason, verdict]
        for name in names:
            cells += _metric_cells(metric_of(trial, name))
        doubts = "; ".join(doubt.sentence for doubt in trial.doubts)
        writer.writerow([*cells, "; ".join(trial.violations), doubts])
    return out.getvalue()


def as_json(run: Run, table: ReportTable) -> str:
    """The run's facts and every trial as stored, in table order, with the choice."""
    trials, marks = _all_trials(run, table)
    answer = {
        "run": str(run.root),
        "scenario": run.manifest.scenario.get("name"),
        "created_utc": run.manifest.created_utc,
        "digest": run.manifest.digest,
        "model": model_name(run),
        "machine": to_json(run.manifest.machine),
        "trials": [{"choice": marks.get(trial.trial_id, ""), **to_json(trial)} for trial in trials],
        "notes": list(table.notes),
    }
    return json.dumps(answer, indent=2) + "\n"


def _all_trials(run: Run, table: ReportTable) -> tuple[list[Trial], dict[str, str]]:
    measured = [row.trial for row in table.rows]
    shown = {trial.trial_id for trial in measured}
    failed = [trial for trial in run.trials if trial.trial_id not in shown]
    return [*measured, *failed], {row.trial.trial_id: row.mark for row in table.rows}


def _metric_names(trials: Sequence[Trial]) -> list[str]:
    found = {name for t in trials if t.summary is not None for name in t.summary.metrics}
    found |= {name for t in trials if t.quality is not None for name in t.quality.metrics}
    known = [name for name in METRICS if name in found]
    return known + sorted(found - set(known))


def _metric_cells(metric: Metric | None) -> list[Any]:
    return (
        ["", "", "", ""] if metric is None else [metric.value, _or_empty(metric.low), _or_empty(metric.high), metric.n]
    )


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def _axis_order(name: str) -> tuple[bool, str]:
    return name.startswith("options."), "" if name == "engine" else name


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a GitHub table; what would end a cell or begin markup is escaped."""
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: str) -> str:
    for mark in ("|", "<"):
        cell = cell.replace(mark, f"\\{mark}")
    return " ".join(cell.split())


def _has(table: ReportTable, mark: str) -> bool:
    return any(row.mark == mark for row in table.rows)


def _head(column: Column) -> str:
    """Words below each other, so that a narrow column has a narrow head; the choice's sign needs none."""
    return "" if column.title == "Choice" else column.title.replace(" ", "\n")


def _broken(cell: str) -> str:
    """What stands in brackets goes below: '>= 61.2' over '(n=150)'; so does what follows a comma."""
    return cell.replace(" (", "\n(").replace(", ", ",\n")


def _same_everywhere(table: ReportTable) -> list[int]:
    """Published settings that are the same in every row: where it is narrow one line holds them."""
    if len(table.rows) < 2:
        return []
    settings = [i for i, c in enumerate(table.columns) if i and c.priority == HIGH_PRIORITY and not c.metric]
    return [i for i in settings if len({row.cells[i] for row in table.rows}) == 1]


def _published_width(table: ReportTable) -> int:
    return sum(_width(table, i) + 2 for i, column in enumerate(table.columns) if column.priority == HIGH_PRIORITY)


def _fitting(table: ReportTable, width: int, same: Sequence[int]) -> list[int]:
    """Indices of the columns kept: the published ones but `same`, others by priority while the width lasts."""
    widths = [_width(table, index) for index in range(len(table.columns))]
    kept = [i for i, column in enumerate(table.columns) if column.priority == HIGH_PRIORITY and i not in same]
    used = sum(widths[i] + 2 for i in kept)
    rest = [i for i, column in enumerate(table.columns) if column.priority != HIGH_PRIORITY]
    for index in sorted(rest, key=lambda i: table.columns[i].priority):
        if used + widths[index] + 2 > width:
            break
        kept.append(index)
        used += widths[index] + 2
    return sorted(kept)


def _width(table: ReportTable, index: int) -> int:
    if index == 0:
        return 1
    texts = [_head(table.columns[index]), *(_broken(row.cells[index]) for row in table.rows)]
    return max(len(line) for text in texts for line in text.split("\n"))
