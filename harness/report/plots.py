"""The figures of a run as plotly.js data: plain dicts, no plotting package imported.

Colours stand for engines and come from the Okabe-Ito palette (told apart by colour-blind eyes, on light and dark);
what the theme decides (text, grid, background) is left to the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.measure.metrics import METRICS, metric_of
from harness.recommend.goals import goals_of
from harness.recommend.label import label, quantity
from harness.records import Metric, Recommendation, Trial
from harness.store.reader import Run, read_requests
from harness.units import NS_PER_MS

Figure = dict[str, Any]

PALETTE = ("#2E86C9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CHOSEN = "#E8A400"
SYMBOLS = {"fp32": "circle", "bf16": "square", "fp16": "diamond", "int8": "triangle-up", "int4": "triangle-down"}
PHASES = (("launch", "#56B4E9"), ("quality", "#009E73"), ("load", "#2E86C9"))
CDF_POINTS = 240
"""Points kept of each distribution: enough for a smooth line, few enough for a small file."""
MIN_TICKS, MAX_TICKS = 4, 14
CDF_SHOWN = 6
"""Distributions drawn at first; the others are one click away in the legend."""


LOG_FROM_RATIO = 20.0
"""Largest over smallest value from which an axis is logarithmic: below it a linear one still tells points apart."""


def figures(run: Run, recommendation: Recommendation | None) -> dict[str, Figure]:
    """Name -> {data, layout} for every figure the run has data for."""
    measured = [trial for trial in run.trials if trial.outcome == "ok"]
    made = {
        "tradeoff": tradeoff(measured, recommendation),
        "progress": progress(run),
        "cdf": latency_cdf(run, measured, recommendation),
        "phases": phases(run.trials),
    }
    return {name: figure for name, figure in made.items() if figure["data"]}


def tradeoff(trials: Sequence[Trial], recommendation: Recommendation | None) -> Figure:
    """Throughput across, median latency up: one point per trial with its intervals, the chosen one ringed."""
    data: list[dict[str, Any]] = []
    for engine, colour in _colours(trials).items():
        points = [t for t in trials if t.candidate.engine == engine and _both(t) is not None]
        if points:
            data.append(_points(engine, colour, points))
    if recommendation is not None and (values := _both(recommendation.trial)) is not None:
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "recommended", "hoverinfo": "skip",
                "x": [values[0].value], "y": [values[1].value],
                "marker": {"symbol": "circle-open", "size": 24, "color": CHOSEN, "line": {"width": 3}},
            }
        )  # fmt: skip
    layout = _layout("Throughput (requests/s)", "P50 latency (ms)", rangemode="tozero")
    for axis in ("x", "y"):
        layout[f"{axis}axis"] |= _stretched([value for points in data for value in points[axis]])
    return {"data": data, "layout": layout}


def latency_cdf(run: Run, trials: Sequence[Trial], recommendation: Recommendation | None) -> Figure:
    """Share of requests answered within x ms, from the raw records; one line per candidate, repetitions joined."""
    objective = goals_of(run.manifest.scenario).objectives[0]

    def cost(trial: Trial) -> float:
        metric = metric_of(trial, objective.metric)
        return objective.cost(metric.value) if metric is not None else float("inf")

    chosen = recommendation.trial.candidate.candidate_id if recommendation is not None else ""
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: (t.candidate.candidate_id != chosen, bool(t.violations), cost(t))):
        groups.setdefault(trial.candidate.candidate_id, []).append(trial)
    colours = _colours(trials)
    data: list[dict[str, Any]] = []
    for place, (candidate_id, group) in enumerate(groups.items()):
        samples = _latencies(run, group)
        if not samples.size:
            continue
        at = np.linspace(0.0, 1.0, min(CDF_POINTS, samples.size))
        line = {"color": colours[group[0].candidate.engine], "width": 4 if candidate_id == chosen else 1.6}
        if candidate_id != chosen:
            line["dash"] = ("solid", "dash", "dot", "dashdot")[place % 4]
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": label(group[0].candidate), "line": line,
                "x": _rounded(np.quantile(samples, at)), "y": _rounded(at),
                "visible": True if place < CDF_SHOWN else "legendonly",
                "hovertemplate": "%{y:.1%} within %{x:.1f} ms<extra>%{fullData.name}</extra>",
            }
        )  # fmt: skip
    layout = _layout("Latency (ms)", "Share of requests answered")
    if data:
        ends = min(line["x"][0] for line in data), max(line["x"][-1] for line in data)
        layout["xaxis"] |= {"type": "log", "tickmode": "array", "tickvals": _log_ticks(*ends)}
    layout["yaxis"]["tickformat"] = ".0%"
    layout["legend"] = {"orientation": "v", "x": 1.02, "y": 1}
    return {"data": data, "layout": layout}


def progress(run: Run) -> Figure:
    """The first objective over the trials in the order they ran, the best feasible so far as a step line."""
    objective = goals_of(run.manifest.scenario).objectives[0]
    best: list[tuple[int, float]] = []
    for trial in run.trials:
        metric = metric_of(trial, objective.metric)
        if metric is None or not trial.is_feasible:
            continue
        value = metric.value
        if best and objective.cost(best[-1][1]) <= objective.cost(value):
            value = best[-1][1]
        best.append((trial.number, value))
    data: list[dict[str, Any]] = []
    feasible = [t for t in run.trials if t.is_feasible and metric_of(t, objective.metric) is not None]
    broken = [t for t in run.trials if t.outcome == "ok" and t.violations and metric_of(t, objective.metric)]
    for name, trials, symbol in (("feasible", feasible, "circle"), ("broke a constraint", broken, "circle-open")):
        if trials:
            data.append(_progress_points(name, trials, symbol, objective.metric))
    if best:
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": "best so far", "line": {"shape": "hv", "color": CHOSEN},
                "x": [number for number, _ in best], "y": _rounded([value for _, value in best]), "hoverinfo": "skip",
            }
        )  # fmt: skip
    scale = _stretched([value for points in data for value in points["y"]])
    floor = min((value for points in data for value in points["y"]), default=0.0) * 0.8 if scale else 0.0
    failed = [trial for trial in run.trials if trial.outcome != "ok"]
    if failed and data:
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "no numbers", "cliponaxis": False,
                "x": [trial.number for trial in failed], "y": [floor] * len(failed),
                "text": [f"{label(trial.candidate)}<br>{trial.outcome}" for trial in failed],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"symbol": "x", "size": 9, "color": "#C0392B"},
            }
        )  # fmt: skip
    row = METRICS.get(objective.metric.split(".")[0])
    unit = f" ({row.unit})" if row is not None and row.unit != "frac" else ""
    layout = _layout("Trial", f"{objective.metric}{unit}", rangemode="tozero")
    layout["yaxis"] |= scale
    layout["xaxis"] |= {"tickformat": "d", "rangemode": "normal"} | ({"dtick": 1} if len(run.trials) <= 20 else {})
    return {"data": data, "layout": layout}


def phases(trials: Sequence[Trial]) -> Figure:
    """Where each trial's time went, in seconds, in the order they ran."""
    timed = [trial for trial in trials if trial.phase_s]
    names = [f"{trial.number}: {label(trial.candidate)}" for trial in timed]
    data = []
    known = dict(PHASES)
    others = sorted({name for trial in timed for name in trial.phase_s} - set(known))
    for name, colour in [*PHASES, *zip(others, PALETTE[3:], strict=False)]:
        seconds = [trial.phase_s.get(name, 0.0) for trial in timed]
        if any(seconds):
            data.append(
                {
                    "type": "bar", "orientation": "h", "name": name, "y": names, "x": _rounded(seconds),
                    "marker": {"color": colour}, "hovertemplate": f"%{{x:.1f}} s {name}<extra></extra>",
                }
            )  # fmt: skip
    layout = _layout("Seconds", "")
    layout["barmode"] = "stack"
    layout["legend"] |= {"traceorder": "normal", "y": 1.02, "yanchor": "bottom"}
    layout["margin"]["t"] = 30
    layout["yaxis"] = {"automargin": True, "autorange": "reversed", "type": "category"}
    layout["height"] = 150 + 26 * len(timed)
    return {"data": data, "layout": layout}


def _stretched(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where a linear one would press the small values into its corner; else nothing."""
    if not values or min(values) <= 0 or max(values) / min(values) < LOG_FROM_RATIO:
        return {}
    return {"type": "log", "rangemode": "normal", "tickmode": "array", "tickvals": _log_ticks(min(values), max(values))}


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, written out (plotly shortens 20 to 2 on a logarithmic axis)."""
    decades = range(math.floor(math.log10(max(low, 1e-3))), math.ceil(math.log10(max(high, 1e-3))) + 1)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(range(10, 100))):
        scale = 10 if steps[-1] > 10 else 1
        ticks = [step * 10.0**decade / scale for decade in decades for step in steps]
        inside = [float(f"{tick:.4g}") for tick in ticks if low * 0.99 <= tick <= high * 1.01]
        if len(inside) >= MIN_TICKS:
            break
    return inside[:: math.ceil(len(inside) / MAX_TICKS)]


def _points(engine: str, colour: str, trials: Sequence[Trial]) -> dict[str, Any]:
    pairs = [pair for trial in trials if (pair := _both(trial)) is not None]
    return {
        "type": "scatter", "mode": "markers", "name": engine,
        "x": _rounded(rate.value for rate, _ in pairs), "y": _rounded(wait.value for _, wait in pairs),
        "error_x": _bars([rate for rate, _ in pairs]), "error_y": _bars([wait for _, wait in pairs]),
        "text": [_hover(trial) for trial in trials], "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": colour, "size": 11,
            "symbol": [
                SYMBOLS.get(t.candidate.dtype, "cross") + ("-open" if t.violations else "") for t in trials
            ],
            "line": {"width": [2 if t.violations else 0 for t in trials]},
        },
    }  # fmt: skip


def _progress_points(name: str, trials: Sequence[Trial], symbol: str, metric_name: str) -> dict[str, Any]:
    values = [metric.value for trial in trials if (metric := metric_of(trial, metric_name)) is not None]
    colours = _colours(trials)
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": [t.number for t in trials], "y": _rounded(values),
        "text": [_hover(trial) for trial in trials], "hovertemplate": "%{text}<extra></extra>",
        "marker": {"symbol": symbol, "size": 9, "color": [colours[t.candidate.engine] for t in trials]},
    }  # fmt: skip


def _hover(trial: Trial) -> str:
    shown = (("P50", "latency_p50_ms"), ("P99", "latency_p99_ms"), ("throughput", "throughput_rps"))
    numbers = [f"{name} {quantity(metric)}" for name, key in shown if (metric := metric_of(trial, key)) is not None]
    broken = [f"broke: {violation}" for violation in trial.violations]
    return "<br>".join([f"<b>{label(trial.candidate)}</b>", *numbers, *broken, trial.trial_id])


def _bars(metrics: Sequence[Metric]) -> dict[str, Any]:
    up = [metric.high - metric.value if metric.high is not None else 0.0 for metric in metrics]
    down = [metric.value - metric.low if metric.low is not None else 0.0 for metric in metrics]
    return {"array": _rounded(up), "arrayminus": _rounded(down), "thickness": 1, "width": 3}


def _both(trial: Trial) -> tuple[Metric, Metric] | None:
    rate, wait = metric_of(trial, "throughput_rps"), metric_of(trial, "latency_p50_ms")
    return (rate, wait) if rate is not None and wait is not None else None


def _latencies(run: Run, trials: Sequence[Trial]) -> Any:
    """Latencies in ms of every answered, measured request of these trials; empty when no raw record is left."""
    parts = []
    for trial in trials:
        try:
            table = read_requests(run.root, trial.trial_id)
        except UsageError:
            continue
        kept = table[(~table["is_warmup"]) & (table["outcome"] == "ok")]
        parts.append((kept["done_ns"] - kept["intended_ns"]).to_numpy() / NS_PER_MS)
    return np.concatenate(parts) if parts else np.array([])


def _colours(trials: Sequence[Trial]) -> dict[str, str]:
    """Engine -> colour, in alphabetical order, so that a figure's colours do not depend on the results."""
    engines = sorted({trial.candidate.engine for trial in trials})
    return {engine: PALETTE[place % len(PALETTE)] for place, engine in enumerate(engines)}


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _layout(x_title: str, y_title: str, rangemode: str = "normal") -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": x_title}, "rangemode": rangemode, "zeroline": False},
        "yaxis": {"title": {"text": y_title}, "rangemode": rangemode, "zeroline": False},
        "margin": {"l": 60, "r": 20, "t": 10, "b": 50},
        "height": 420,
        "legend": {"orientation": "h", "y": -0.18, "x": 0},
        "hovermode": "closest",
    }
