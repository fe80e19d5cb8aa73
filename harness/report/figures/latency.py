"""Figures of the latency distribution: share of requests answered within x ms, and the tail by percentile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.figures.style import DASHES, Figure, layout, log_axis, plain, rounded, stretched
from harness.report.series.latency_curves import Samples

SHOWN = 2
"""Distributions drawn at first besides each engine's best; the others are one click away in the legend."""
BANDS = 2
"""Candidates drawn with their interval: more bands would cover each other."""
LEVEL_TICKS = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def latency_cdf(samples: Sequence[Samples], chosen_id: str, tints: Mapping[str, str]) -> Figure:
    """One line per candidate, the best first; the chosen one thick."""
    data = []
    for place, one in enumerate(samples):
        levels, latency = one.grid()
        hover = "%{y:.1%} within %{x:.4g} ms<extra>%{fullData.name}</extra>"
        data.append(
            _line(samples, place, chosen_id, tints)
            | {"x": rounded(latency), "y": rounded(levels), "hovertemplate": hover}
        )
    made = layout("Latency (ms)", "Share of requests answered")
    made["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.01]}
    made["xaxis"] |= latency_axis([line["x"] for line in data])
    return {"data": data, "layout": made | _beside()}


def percentile_curves(samples: Sequence[Samples], chosen_id: str, tints: Mapping[str, str]) -> Figure:
    """Latency by percentile, the tail stretched out; the first candidates with 95 % intervals."""
    data: list[dict[str, Any]] = []
    for place, one in enumerate(samples):
        levels, latency = one.tail()
        line = _line(samples, place, chosen_id, tints) | {
            "x": rounded(1 / (1 - levels)),
            "y": rounded(latency),
            "customdata": [f"{100 * q:.4g}" for q in levels],
            "hovertemplate": "p%{customdata}: %{y:.4g} ms<extra>%{fullData.name}</extra>",
            "legendgroup": str(place),
        }
        data.append(line)
        if place < BANDS:
            data.extend(_band(one, str(place), line["line"]["color"]))
    made = layout("Percentile of requests", "Latency (ms)")
    largest = max((line["x"][-1] for line in data if line.get("mode") == "lines" and line["x"]), default=100.0)
    ticks = [level for level in LEVEL_TICKS if 1 / (1 - level) <= largest * 1.3]
    made["xaxis"] |= {"type": "log", "tickmode": "array", "tickvals": [round(1 / (1 - level)) for level in ticks]}
    made["xaxis"]["ticktext"] = [f"p{100 * level:.5g}" for level in ticks]
    made["yaxis"] |= stretched([value for line in data for value in line["y"] if value])
    return {"data": data, "layout": made | _beside()}


def _line(samples: Sequence[Samples], place: int, chosen_id: str, tints: Mapping[str, str]) -> dict[str, Any]:
    """One candidate's line: colour by engine, dashes separate those of one engine."""
    one = samples[place]
    is_chosen = one.candidate.candidate_id == chosen_id
    same = [other.candidate.engine for other in samples[:place]].count(one.candidate.engine)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(one.name) + (" ★" if is_chosen else ""),
        "line": {
            "color": tints[one.candidate.engine],
            "width": 3.5 if is_chosen else 1.8,
            "dash": DASHES[same % len(DASHES)],
        },
        "visible": True if _is_shown(samples, place) else "legendonly",
    }


def _is_shown(samples: Sequence[Samples], place: int) -> bool:
    """The first few, and the first of every engine: what one engine's siblings do is seldom the question."""
    return place < SHOWN or samples[place].candidate.engine not in [one.candidate.engine for one in samples[:place]]


def _band(one: Samples, group: str, colour: str) -> list[dict[str, Any]]:
    """The 95 % interval at a few levels: an upper edge and the area down to the lower one."""
    bounds = one.bounds()
    if len(bounds) < 2:
        return []
    x = rounded([1 / (1 - level) for level, _ in bounds])
    lows = rounded([metric.low for _, metric in bounds if metric.low is not None])
    highs = rounded([metric.high for _, metric in bounds if metric.high is not None])
    return [
        {
            "type": "scatter",
            "mode": "none",
            "x": x + x[::-1],
            "y": highs + lows[::-1],
            "fill": "toself",
            "fillcolor": f"{colour}/0.22",
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": group,
            "name": "95 % interval",
        }
    ]


def latency_axis(lines: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Logarithmic where the latencies span more than a factor of five."""
    if not lines:
        return {}
    low, high = min(line[0] for line in lines), max(line[-1] for line in lines)
    return log_axis(low, high) if low > 0 and high / low > 5 else {}


def _beside() -> dict[str, Any]:
    """Names of candidates are long: they stand in a column beside the plot, which then keeps its height."""
    return {
        "legend": {"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top", "font": {"size": 11}, "tracegroupgap": 0},
        "height": 440,
    }
