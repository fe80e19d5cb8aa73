"""Figure of one trial's timeline: panels below each other over one time axis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.report.figures.style import Figure
from harness.report.series.timeline import Floats, Timeline

PANEL_HEIGHT = 118
GAP_FRAC = 0.26
"""Share of a panel's height left free above it for its title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series of a panel: `width` 0 draws an area."""

    name: str
    colour: str
    x: Floats
    y: Floats
    style: dict[str, Any]
    suffix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart of the stack."""

    title: str
    lines: tuple[Line, ...]
    axis: dict[str, Any]


def timeline_figure(line: Timeline) -> Figure:
    """Rates, in flight, latency, lag, what the server published, and whatever telemetry the trial has."""
    panels = [*_load_panels(line), *_engine_panels(line), *_resource_panels(line)]
    step = 1.0 / len(panels)
    layout: dict[str, Any] = {
        "height": PANEL_HEIGHT * len(panels) + 60,
        "margin": {"l": 62, "r": 16, "t": 4, "b": 44},
        "hovermode": "x unified",
        "showlegend": False,
        "annotations": [],
        "shapes": [],
        "xaxis": {"title": {"text": "Seconds from the first measured request"}, "zeroline": False, "anchor": "free"},
    }
    layout["xaxis"] |= {"position": 0, "hoverformat": ".2f", "ticksuffix": ""}
    seen = np.concatenate([one.x for panel in panels for one in panel.lines] or [np.zeros(1)])
    if len(seen):  # plotly leaves room for marks beside the first and last moment
        layout["xaxis"]["range"] = _numbers([seen.min(), seen.max()])
    data: list[dict[str, Any]] = []
    for number, panel in enumerate(panels):
        suffix = "" if number == 0 else str(number + 1)
        bottom = 1 - (number + 1) * step
        domain = [max(0.0, bottom), bottom + step * (1 - GAP_FRAC)]
        layout[f"yaxis{suffix}"] = {
            "domain": domain,
            "rangemode": "tozero",
            "zeroline": False,
            "nticks": 4,
        } | panel.axis
        layout["annotations"].append(_panel_title(panel, domain[1]))
        data += [_trace(one, f"y{suffix}", "x") for one in panel.lines]
    if line.warmup_s < -line.width_s / 2:
        layout["shapes"].append(
            {
                "type": "rect",
                "xref": "x",
                "yref": "paper",
                "x0": line.warmup_s,
                "x1": 0,
                "y0": 0,
                "y1": 1,
                "fillcolor": "@soft/0.12",
                "line": {"width": 0},
                "layer": "below",
            }
        )
    return {"data": data, "layout": layout}


def _load_panels(line: Timeline) -> list[Panel]:
    def series(name: str, colour: str, values: Floats, suffix: str, **style: Any) -> Line:
        return Line(name=name, colour=colour, x=line.at_s, y=values, style=style, suffix=suffix)

    rate = " requests/s"
    rates = [
        series("asked", "@soft", line.asked_rps, rate, line={"shape": "hvh", "width": 1.2, "dash": "dot"}),
        series("sent", "@e0", line.sent_rps, rate, line={"shape": "hvh", "width": 1.4}),
        series("answered", "@e2", line.answered_rps, rate, line={"shape": "hvh", "width": 2}),
    ]
    if line.failed_rps.any():
        rates.append(series("failed", "@bad", line.failed_rps, rate, type="bar", width=line.width_s))
    return [
        Panel(title="Requests/s", lines=tuple(rates), axis={}),
        Panel(
            title="In flight (requests)",
            lines=(series("in flight", "@e0", line.in_flight, "", fill="tozeroy", line={"shape": "hvh", "width": 1}),),
            axis={},
        ),
        Panel(
            title="Latency (ms)",
            lines=(
                series("largest", "@e1", line.latency_max_ms, " ms", line={"width": 1}),
                series("median", "@e0", line.latency_p50_ms, " ms", line={"width": 2}),
            ),
            axis={},
        ),
        *_lag_panel(series("lag", "@e5", line.lag_max_ms, " ms", line={"width": 1.4})),
    ]


def _lag_panel(lag: Line) -> list[Panel]:
    """Nothing where every send stands as intended: another tool measured, which did not record what it intended."""
    if not np.nanmax(np.nan_to_num(lag.y), initial=0.0) > 0:
        return []
    return [Panel(title="Lag of the load generator (ms, largest)", lines=(lag,), axis={})]


_SHARES = (
    ("cpu_frac_engine", "engine", "@e0"),
    ("cpu_frac_client", "client", "@e1"),
    ("cpu_frac_other", "other", "@soft"),
)
_MORE = (
    ("memory_mib", "Memory of the engine (MiB)", " MiB", 1.0),
    ("gpu_memory_mib", "GPU memory (MiB)", " MiB", 1.0),
    ("gpu_util_frac", "GPU utilisation (%)", " %", 100.0),
    ("gpu_power_w", "GPU power (W)", " W", 1.0),
)


_ENGINE_PANELS = (
    ("Requests, as the engine counts", "", 1.0, (("waiting", "waiting", "@e1"), ("running", "running", "@e0"))),
    ("KV cache in use (%)", " %", 100.0, (("kv_frac", "in use", "@e0"),)),
    ("Batch size", "", 1.0, (("batch_size", "requests in a step", "@e0"),)),
    ("Put back or refused (requests/s)", " requests/s", 1.0,
        (("preemptions_per_s", "preempted", "@bad"), ("refused_per_s", "refused", "@e1"))),
    ("Prompt tokens from the prefix cache (%)", " %", 100.0, (("prefix_hit_frac", "hits", "@e0"),)),
    ("Drafted tokens accepted (%)", " %", 100.0, (("accepted_frac", "accepted", "@e0"),)),
)  # fmt: skip
"""Title, suffix and scale of each panel, then its series: key, name, colour."""


def _engine_panels(line: Timeline) -> list[Panel]:
    panels = []
    for title, suffix, scale, rows in _ENGINE_PANELS:
        lines = tuple(
            Line(
                name=name,
                colour=colour,
                x=line.engine_s,
                y=scale * line.engine[key],
                style={"line": {"width": 1.6}}
                | (_DOTTED | {"marker": {"size": 4, "color": colour}} if scale > 1 else {}),
                suffix=suffix,
            )
            for key, name, colour in rows
            if key in line.engine and (key not in _RARE or np.nanmax(line.engine[key]) > 0)
        )
        if lines:
            panels.append(Panel(title=title, lines=lines, axis=_WHOLE if scale > 1 else {}))
    return panels


_DOTTED = {"mode": "lines+markers"}
"""For shares of what was counted since the scrape before: between two in which nothing was, one has no line."""
_WHOLE = {"range": [-4, 104], "tickvals": [0, 50, 100]}
"""A share of nothing, or of all, is a line inside the panel, not one on its edge."""
_RARE = ("preemptions_per_s", "refused_per_s")
"""Series that are drawn only where they ever left 0."""


def _resource_panels(line: Timeline) -> list[Panel]:
    known = line.resources
    panels = []
    shares = [
        Line(
            name=name, colour=colour, x=line.resource_s, y=100 * known[key], style={"line": {"width": 1.6}}, suffix=" %"
        )
        for key, name, colour in _SHARES
        if key in known
    ]
    if shares:
        panels.append(Panel(title="CPU (% of the machine)", lines=tuple(shares), axis={}))
    for key, title, suffix, scale in _MORE:
        if key in known:
            name = title.partition(" (")[0]
            one = Line(name=name, colour="@e0", x=line.resource_s, y=scale * known[key], style={}, suffix=suffix)
            panels.append(Panel(title=title, lines=(one,), axis={}))
    return panels


def _trace(line: Line, y_axis: str, x_axis: str) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": line.name,
        "x": _numbers(line.x),
        "y": _numbers(line.y),
        "xaxis": x_axis,
        "yaxis": y_axis,
        "hovertemplate": f"%{{y:.4g}}{line.suffix}",
    }
    style = dict(line.style)
    if style.get("type") == "bar":
        return (
            {key: value for key, value in trace.items() if key != "mode"} | style | {"marker": {"color": line.colour}}
        )
    trace["line"] = {"color": line.colour} | style.pop("line", {})
    if "fill" in style:
        trace["fillcolor"] = f"{line.colour}/0.2"
    return trace | style


def _panel_title(panel: Panel, top: float) -> dict[str, Any]:
    """The title with its series named in their colours: a legend where the eye already is."""
    names = (
        ""
        if len(panel.lines) < 2
        else "   " + "  ".join(f'<span style="color:{one.colour}">■</span> {one.name}' for one in panel.lines)
    )
    return {
        "text": f"<b>{panel.title}</b>{names}",
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": top,
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 12},
    }


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in values]
