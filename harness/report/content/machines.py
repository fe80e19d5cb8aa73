"""The machines of a search on several: how each ran the calibration candidate, and whose trials are ranked."""

from __future__ import annotations

from collections import Counter

from harness.measure.machine.calibration import LIMIT_FRAC, MachineOfRun
from harness.report.content.run_summary import Story
from harness.report.content.sections import Cell, Head, Section
from harness.report.wording.numbers import ABSENT

NOTE = (
    "Ratio: by how much slower than its class a machine ran one candidate when it was last calibrated, with its 95 % "
    f"interval; of two machines, than the other. Beyond {100 * LIMIT_FRAC:g} % a machine is set aside: its trials are "
    "shown and not ranked. Values are shown as they were measured."
)


def machines(story: Story) -> Section | None:
    """None for a run on one machine that nobody calibrated."""
    listed = story.run.manifest.machines
    if not listed:
        return None
    counts = Counter(trial.machine for trial in story.run.trials)
    heads = (
        Head(title="Machine"),
        Head(title="Class"),
        Head(title="Trials", is_number=True),
        Head(title="Ratio", is_number=True),
        Head(title="Launches", is_number=True),
        Head(title="Its trials"),
    )
    rows = tuple(_row(each, counts[each.machine_id]) for each in listed)
    return Section(key="machines", title="Machines", heads=heads, rows=rows, notes=(NOTE,))


def _row(machine: MachineOfRun, trials: int) -> tuple[Cell, ...]:
    ratio = machine.ratio
    return (
        Cell(text=machine.machine_id),
        Cell(text=machine.machine_class),
        Cell(text=str(trials), sort=trials),
        Cell(text=ABSENT if ratio is None else f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"),
        Cell(text=ABSENT if ratio is None else str(ratio.launches)),
        Cell(text="ranked" if machine.ranked == "ranked" else f"not ranked: {machine.why}"),
    )
