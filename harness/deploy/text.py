"""The result of a deployment as text: the same metrics measured locally and on the endpoint."""

from __future__ import annotations

from harness.measure.metrics import metric_of, metrics_in
from harness.records import Metric, Trial
from harness.wording import claim, label


def comparison(here: Trial, there: Trial) -> str:
    """A table of both measurements, then quality and notes."""
    rows = [("", "measured here", "endpoint")]
    for row in metrics_in("deployed"):
        before, after = metric_of(here, row.name), metric_of(there, row.name)
        if before is not None or after is not None:
            rows.append((row.name, _cell(before), _cell(after)))
    verdicts = [trial.quality.verdict if trial.quality else "not checked" for trial in (here, there)]
    rows.append(("quality", verdicts[0], verdicts[1]))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{label(here.candidate)}"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"note: {note}" for note in there.notes]
    lines += [f"broken constraint: {each}" for each in there.violations]
    return "\n".join(lines)


def _cell(metric: Metric | None) -> str:
    return "-" if metric is None else claim(metric)
