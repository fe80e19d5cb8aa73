"""Titles of axes, metrics and trials in the figures and tables of a report."""

from __future__ import annotations

from engines.setting import AXES
from harness.measure.levels import level_in
from harness.measure.metrics import metric_of, metric_row, metrics_in
from harness.records import Trial
from harness.report.figures.style import plain
from harness.wording import label, quantity

_AXES = {axis.name: axis.title for axis in AXES}


def axis_title(name: str) -> str:
    """'batch_size' -> 'batch size'."""
    return _AXES.get(name, name.replace("_", " "))


def value_word(value: object) -> str:
    """An axis value as the scenario writes it; 'auto' for none."""
    if value is None:
        return "auto"
    return str(value).lower() if isinstance(value, bool) else str(value)


def metric_title(name: str, unit: str) -> str:
    """'latency_p50_ms' -> 'Latency P50 (ms)', 'latency_p50_ms@users=16' -> 'Latency P50, 16 users (ms)'."""
    row, level = metric_row(name), level_in(name)
    task = level.text if level is not None else name.partition(".")[2]
    title = row.title if row is not None else name
    shown = f" ({unit})" if unit not in ("", "frac", "1") else " (%)" if unit == "frac" else ""
    return title + (f", {task}" if task else "") + shown


def hover(trial: Trial) -> str:
    """The text of a point under the mouse."""
    rows = metrics_in("brief")
    numbers = [f"{row.short} {quantity(metric)}" for row in rows if (metric := metric_of(trial, row.name)) is not None]
    broken = [plain(f"broke: {violation}") for violation in trial.violations]
    return "<br>".join([f"<b>{plain(label(trial.candidate))}</b>", *numbers, *broken, plain(trial.trial_id)])


def part_shown(shown: int, total: int, things: str, which: str) -> str:
    """'16 of 40 candidates shown: WHICH; the result table has every one', or '' when nothing is left out."""
    return f"{shown} of {total} {things} shown: {which}; the result table has every one." if shown < total else ""
