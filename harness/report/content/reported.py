"""The section of an imported run that sets the tool's own numbers beside ours of the same requests."""

from __future__ import annotations

from harness.measure.metrics import metric_of
from harness.records import Trial
from harness.report.content.run_summary import Story
from harness.report.content.sections import Cell, Head, Section, metric_cell
from harness.report.wording.numbers import ABSENT, number
from harness.report.wording.titles import metric_title
from harness.reported import Reported


def reported(story: Story) -> Section | None:
    """Every number that another tool printed, ours beside it where it has the same meaning; None for our own runs."""
    imported = story.run.manifest.imported
    rows = [row for trial in story.run.trials for row in _rows(trial)]
    if imported is None or not rows:
        return None
    heads = (
        Head(title=f"As {imported.tool} names it"),
        Head(title="Its value", is_number=True),
        Head(title="Unit"),
        Head(title="Ours", is_number=True),
        Head(title="Our name"),
        Head(title="Made differently"),
        Head(title="Trial"),
    )
    note = "To be read, never ranked or judged: ours are computed from the requests that the tool kept."
    return Section(key="reported", title=f"What {imported.tool} printed", heads=heads, rows=tuple(rows), notes=(note,))


def _rows(trial: Trial) -> list[tuple[Cell, ...]]:
    return [_row(one, trial) for one in trial.reported]


def _row(one: Reported, trial: Trial) -> tuple[Cell, ...]:
    ours = metric_of(trial, one.metric) if one.metric else None
    return (
        Cell(text=one.name),
        Cell(text=number(one.value), sort=one.value),
        Cell(text=one.unit),
        metric_cell(ours, trial.trial_id),
        Cell(text=metric_title(one.metric, "") if ours is not None else ABSENT),
        Cell(text=one.differs or ABSENT),
        Cell(text=trial.trial_id, trial_id=trial.trial_id),
    )
