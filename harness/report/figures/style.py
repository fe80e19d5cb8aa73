"""Style of all figures: colours for light and dark pages, axes, layout.

A colour is '@e0' to '@e7' (engines), '@chosen', '@bad', '@soft', '@ink' or '@line', with '/0.2' behind it for opacity:
page.css holds the values, all of them distinct to colour-blind eyes (Okabe & Ito 2008, darkened on white, lightened
on black so that every mark has a contrast of 3:1 or more).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from harness.records import Metric, Trial

Figure = dict[str, Any]

ENGINE_COLOURS = 8
CHOSEN = "@chosen"
SYMBOLS = {"fp32": "circle", "bf16": "square", "fp16": "diamond", "int8": "triangle-up", "int4": "triangle-down"}
DASHES = ("solid", "dash", "dot", "dashdot")
MIN_TICKS, MAX_TICKS = 4, 12
LOG_FROM_RATIO = 20.0
"""Largest over smallest value from which an axis is logarithmic: below it a linear one still separates points."""


def engine_places(engines: Iterable[str]) -> dict[str, int]:
    """Engine -> number of its colour, alphabetically, so that colours do not depend on the results."""
    return {engine: place % ENGINE_COLOURS for place, engine in enumerate(sorted(set(engines)))}


def colours(trials: Iterable[Trial]) -> dict[str, str]:
    """Engine -> colour name."""
    return {engine: f"@e{place}" for engine, place in engine_places(t.candidate.engine for t in trials).items()}


def plain(text: str) -> str:
    """Text for plotly, which reads a few HTML tags in names and hover texts: here none is meant."""
    return escape(text, quote=False)


def rounded(values: Iterable[float]) -> list[float]:
    """Five significant digits: more is not seen, and a page of them is twice the size."""
    return rounded_to(5, values)


def rounded_to(digits: int, values: Iterable[float]) -> list[float]:
    """That many significant digits."""
    return [float(f"{value:.{digits}g}") for value in values]


def bars(metrics: Sequence[Metric]) -> dict[str, Any]:
    """Error bars of 95 % intervals; no bar where there is no end."""
    up = [metric.high - metric.value if metric.high is not None else 0.0 for metric in metrics]
    down = [metric.value - metric.low if metric.low is not None else 0.0 for metric in metrics]
    return {"type": "data", "array": rounded(up), "arrayminus": rounded(down), "thickness": 1, "width": 3}


def layout(x_title: str, y_title: str, height: int = 400) -> dict[str, Any]:
    """Axes with titles, no chart junk; the theme comes from the page."""
    return {
        "xaxis": {"title": {"text": x_title}, "zeroline": False, "automargin": True},
        "yaxis": {"title": {"text": y_title}, "zeroline": False, "automargin": True},
        "margin": {"l": 60, "r": 16, "t": 12, "b": 48},
        "height": height,
        "legend": {"orientation": "h", "y": -0.2, "x": 0, "yanchor": "top"},
        "hovermode": "closest",
    }


def stretched(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where a linear one would press the small values into its corner; else one from zero."""
    if not values or min(values) <= 0 or max(values) / min(values) < LOG_FROM_RATIO:
        return {"rangemode": "tozero"}
    return log_axis(min(values), max(values))


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis with its numbers written out (plotly shortens 20 to 2 there)."""
    return {"type": "log", "tickmode": "array", "tickvals": log_ticks(low, high)}


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, 4 to 12 of them."""
    decades = range(math.floor(math.log10(max(low, 1e-3))), math.ceil(math.log10(max(high, 1e-3))) + 1)
    inside: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(step / 10 for step in range(10, 100))):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        inside = [float(f"{tick:.4g}") for tick in ticks if low * 0.99 <= tick <= high * 1.01]
        if len(inside) >= MIN_TICKS:
            break
    return inside[:: max(1, math.ceil(len(inside) / MAX_TICKS))]
