"""The figure of a sweep: latency against throughput, one line per candidate, one mark per level of load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.choose.repetitions import Pooled
from harness.level import Level
from harness.measure.levels import at_level
from harness.records import Metric
from harness.report.figures.style import DASHES, Figure, bars, layout, log_axis, plain, rounded
from harness.report.wording.titles import metric_title
from harness.wording import label, quantity

LINES = 12
"""Candidates drawn, the best first: more lines hide each other."""
LOG_FROM = 8.0
"""Largest over smallest latency from which the upright axis is logarithmic."""


def level_curves(
    candidates: Sequence[Pooled], levels: Sequence[Level], chosen_id: str, tints: Mapping[str, str]
) -> tuple[tuple[str, Figure], ...]:
    """One figure for each percentile that was measured at several levels: (its title, figure)."""
    found = []
    for name in ("latency_p50_ms", "latency_p99_ms"):
        title = metric_title(name, "ms")
        lines = [_line(candidates, place, name, levels) for place in range(min(LINES, len(candidates)))]
        drawn = [
            _styled(line, one, chosen_id, tints)
            for line, one in zip(lines, candidates, strict=False)
            if line is not None
        ]
        if drawn:
            found.append((title, _figure(drawn, title)))
    return tuple(found)


def _line(candidates: Sequence[Pooled], place: int, name: str, levels: Sequence[Level]) -> dict[str, Any] | None:
    """The points of a candidate; None where it has fewer than two."""
    one = candidates[place]
    points = [
        (level, rate, wait)
        for level in levels
        if (rate := one.metric(at_level("throughput_rps", level))) is not None
        and (wait := one.metric(at_level(name, level))) is not None
    ]
    if len(points) < 2:
        return None
    same = [other.candidate.engine for other in candidates[:place]].count(one.candidate.engine)
    return {
        "type": "scatter",
        "mode": "lines+markers" if place else "lines+markers+text",
        "x": rounded(rate.value for _, rate, _ in points),
        "y": rounded(wait.value for _, _, wait in points),
        "error_y": bars([wait for _, _, wait in points]),
        "text": [f"{level.value:.10g}" for level, _, _ in points],
        "textposition": "top left",
        "customdata": [_hover(level, rate, wait) for level, rate, wait in points],
        "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>",
        "line": {"dash": DASHES[same % len(DASHES)]},
    }


def _hover(level: Level, rate: Metric, wait: Metric) -> str:
    return f"<b>{level.text}</b><br>{quantity(rate)}<br>{quantity(wait)}"


def _styled(line: dict[str, Any], one: Pooled, chosen_id: str, tints: Mapping[str, str]) -> dict[str, Any]:
    is_chosen = one.candidate.candidate_id == chosen_id
    tint = tints[one.candidate.engine]
    return line | {
        "name": plain(label(one.candidate)) + (" ★" if is_chosen else ""),
        "line": {**line["line"], "color": tint, "width": 3.5 if is_chosen else 1.8},
        "marker": {"color": tint, "size": 8},
    }


def _figure(lines: Sequence[dict[str, Any]], title: str) -> Figure:
    made = layout("Throughput (requests/s)", title, 460)
    waits = [value for line in lines for value in line["y"] if value > 0]
    if waits and max(waits) / min(waits) > LOG_FROM:
        made["yaxis"] |= log_axis(min(waits), max(waits))
    else:
        made["yaxis"] |= {"rangemode": "tozero"}
    made["xaxis"] |= {"rangemode": "tozero"}
    return {"data": list(lines), "layout": made}
