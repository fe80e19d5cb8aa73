"""Figures of the search: progress, importance of the axes, parallel coordinates, where the time went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.choose.goals import Goals, Objective, run_goals
from harness.choose.repetitions import Pooled
from harness.measure.metrics import metric_of, metric_row
from harness.records import Metric, Trial
from harness.report.content.axis_importance import Importance
from harness.report.content.result_table import axis_cell
from harness.report.figures.style import (
    CHOSEN,
    Figure,
    colours,
    layout,
    log_ticks,
    plain,
    rounded,
    rounded_to,
    stretched,
)
from harness.report.wording.titles import axis_title, hover, metric_title
from harness.store.reader import Run
from harness.wording import label

PHASES = (("launch", "@e5"), ("quality", "@e2"), ("load", "@e0"))
PHASES_SHOWN = 60
"""Trials drawn: below 20 pixels a bar's name cannot be read."""
LEVELS_LABELLED = 12
"""Values of one axis that are written out; more would cover each other."""
HOVERS = 1000
"""Points that show their candidate under the mouse; of more each shows its value and trial, to keep the page small."""
LINES_SHOWN = 150
"""Candidates drawn as parallel coordinates, the best first: more is a carpet."""


def _by_kind(shown: Sequence[Trial]) -> Iterator[tuple[str, list[Trial], str]]:
    """The kinds of trials with numbers: name, trials, symbol."""
    yield "feasible", [t for t in shown if t.is_feasible], "circle"
    yield "broke a constraint", [t for t in shown if t.violations], "circle-open"
    yield "not ranked", [t for t in shown if t.unranked and not t.violations], "square-open"
    yield "ended early, as estimated", [t for t in shown if t.race is not None], "triangle-up-open"


def progress(run: Run) -> Figure:
    """The first objective over the trials in the order they ran, the best feasible so far as a step line."""
    objective = run_goals(run).objectives[0]
    data: list[dict[str, Any]] = []
    shown = [trial for trial in run.trials if trial.has_numbers and metric_of(trial, objective.metric)]
    tints = colours(run.trials)
    for name, trials, symbol in _by_kind(shown):
        if trials:
            data.append(
                _progress_points(name, trials, symbol, objective.metric)
                | {"marker": {"symbol": symbol, "size": 9, "color": [tints[t.candidate.engine] for t in trials]}}
            )
    best = _best_so_far(run.trials, objective)
    if best:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "line": {"shape": "hv", "color": CHOSEN, "width": 2},
                "x": [number for number, _ in best],
                "y": rounded([value for _, value in best]),
                "hoverinfo": "skip",
            }
        )
    made = layout("Trial, in the order they ran", _title(objective.metric))
    scale = stretched(values := [value for points in data for value in points["y"]])
    failed = [trial for trial in run.trials if not trial.has_numbers]
    if failed and data:
        floor = min(values) * 0.85 if scale.get("type") == "log" else 0.0
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "no numbers",
                "cliponaxis": False,
                "x": [trial.number for trial in failed],
                "y": [floor] * len(failed),
                "text": [plain(f"{label(trial.candidate)}: {trial.outcome}") for trial in failed],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"symbol": "x-thin", "size": 9, "color": "@bad", "line": {"width": 2, "color": "@bad"}},
            }
        )
    made["yaxis"] |= scale
    made["xaxis"] |= {"tickformat": "d"} | ({"dtick": 1} if len(run.trials) <= 20 else {})
    return {"data": data, "layout": made}


def _best_so_far(trials: Sequence[Trial], objective: Objective) -> list[tuple[int, float]]:
    best: Metric | None = None
    steps: list[tuple[int, float]] = []
    for trial in trials:
        metric = metric_of(trial, objective.metric)
        if metric is None or not trial.is_feasible:
            continue
        if objective.cost(metric) < objective.cost(best):
            best = metric
        steps.append((trial.number, (best or metric).value))
    return steps


def _progress_points(name: str, trials: Sequence[Trial], symbol: str, metric_name: str) -> dict[str, Any]:
    values = [metric.value for trial in trials if (metric := metric_of(trial, metric_name)) is not None]
    hovers: dict[str, Any] = {"hovertemplate": "%{y}<br>%{customdata}<extra></extra>"}
    if len(trials) <= HOVERS:
        hovers = {"text": [hover(trial) for trial in trials], "hovertemplate": "%{text}<extra></extra>"}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [t.number for t in trials],
        "y": rounded(values),
        "customdata": [t.trial_id for t in trials],
        **hovers,
    }


def importance_figure(found: Sequence[Importance]) -> Figure:
    """One bar per axis, with a tick where chance alone ends."""
    rows = list(reversed(found))
    names = [plain(axis_title(one.axis)) for one in rows]
    texts = [
        plain(f"{one.levels} values over {one.n} candidates; best mean at {one.best_level}")
        + ("" if one.is_more_than_chance else "<br>not more than chance")
        for one in rows
    ]
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "share of variance",
            "showlegend": False,  # the axis has its name; a legend would show one of its two colours
            "y": names,
            "x": rounded(100 * one.share_frac for one in rows),
            "marker": {"color": ["@e0" if one.is_more_than_chance else "@soft/0.45" for one in rows]},
            "width": 0.55,
            "text": texts,
            "textposition": "none",
            "hovertemplate": "%{x:.0f} %<br>%{text}<extra>%{y}</extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "95 % of chance",
            "y": names,
            "x": rounded(100 * one.chance_frac for one in rows),
            "hovertemplate": "chance reaches %{x:.0f} %<extra>%{y}</extra>",
            "marker": {"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": "@ink"}},
        },
    ]
    made = layout("Variance explained alone (%)", "", 130 + 34 * len(rows))
    made["xaxis"] |= {"range": [0, 100]}
    made["yaxis"] |= {"type": "category"}
    made["legend"] |= {"y": 1.02, "yanchor": "bottom"}
    made["margin"]["t"] = 34
    return {"data": data if rows else [], "layout": made}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Values of the objective as heights 0..1, logarithmic where they span much."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> Scale:
        """The scale that holds these values."""
        return cls(low=min(values), high=max(values), is_log=stretched(values).get("type") == "log")

    def height(self, value: float) -> float:
        """0 at the lowest value, 1 at the highest."""
        if self.high <= self.low:
            return 0.5
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values, or a few even steps where the scale is linear."""
        if self.is_log:
            return log_ticks(self.low, self.high)
        return rounded_to(3, [self.low + (self.high - self.low) * share for share in (0, 0.25, 0.5, 0.75, 1)])


def parallel(everyone: Sequence[Pooled], goals: Goals, chosen_id: str) -> Figure:
    """One line per measured candidate through the values of every axis that varies, ending at the objective."""
    objective = goals.objectives[0]
    kept = [one for one in everyone if one.metric(objective.metric) is not None]
    kept.sort(key=lambda one: one.rank(goals))
    kept = kept[:LINES_SHOWN]
    names = _varying(kept)
    if len(kept) < 2 or not names:
        return {"data": [], "layout": {}}
    levels = {name: _levels(kept, name) for name in names}
    ends = [_value(one, objective) for one in kept]
    scale = Scale.of(ends)
    tints = colours([trial for one in everyone for trial in one.trials])
    data = []
    for place, one in reversed(list(enumerate(kept))):
        spot = (place / max(1, len(kept) - 1) - 0.5) * 0.05  # lines that share a value lie beside each other
        y = [_height(levels[name], axis_cell(one.candidate, name)) + spot for name in names]
        y.append(scale.height(ends[place]))
        is_chosen = one.candidate.candidate_id == chosen_id
        tint = tints[one.candidate.engine]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": list(range(len(names) + 1)),
                "y": rounded(y),
                "showlegend": False,
                "name": plain(label(one.candidate)),
                "line": {
                    "color": CHOSEN if is_chosen else tint if one.is_feasible else f"{tint}/0.3",
                    "width": 4 if is_chosen else 1.4,
                },
                "hoverinfo": "text",
                "text": plain(f"{label(one.candidate)}: {ends[place]:.4g}")
                + ("" if one.is_feasible else " (not feasible)"),
            }
        )
    data.append(_level_labels(names, levels))
    titles = [plain(axis_title(name.removeprefix("options."))) for name in names] + [_title(objective.metric)]
    return {"data": data, "layout": _parallel_layout(titles, scale)}


def _parallel_layout(titles: Sequence[str], scale: Scale) -> dict[str, Any]:
    last = len(titles) - 1
    made = layout("", "", 400)
    made["margin"] |= {"l": 40, "r": 70, "t": 48}
    made["xaxis"] |= {
        "tickmode": "array",
        "tickvals": list(range(last + 1)),
        "ticktext": titles,
        "side": "top",
        "range": [-0.15, last + 0.05],
        "gridwidth": 1.5,
        "tickangle": 0,
        "tickfont": {"size": 11},
    }
    ticks = scale.ticks()
    made["yaxis"] |= {
        "range": [-0.08, 1.08],
        "side": "right",
        "showgrid": False,
        "tickmode": "array",
        "tickvals": rounded(scale.height(tick) for tick in ticks),
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
    return made


def _level_labels(names: Sequence[str], levels: dict[str, list[str]]) -> dict[str, Any]:
    spots = [
        (place, _height(levels[name], word), word)
        for place, name in enumerate(names)
        for word in _labelled(levels[name])
    ]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [x + 0.02 for x, _, _ in spots],
        "y": [y + 0.045 for _, y, _ in spots],
        "text": [plain(word) for _, _, word in spots],
        "textposition": "middle right",
        "hoverinfo": "skip",
        "showlegend": False,
        "textfont": {"size": 11, "color": "@ink"},
    }


def _labelled(levels: Sequence[str]) -> list[str]:
    """The values that are written beside an axis: all of a few, some of many."""
    return list(levels[:: math.ceil(len(levels) / LEVELS_LABELLED)])


def _varying(kept: Sequence[Pooled]) -> list[str]:
    names = list(dict.fromkeys(name for one in kept for name in one.candidate.axes()))
    return [name for name in names if len({axis_cell(one.candidate, name) for one in kept}) > 1][:9]


def _levels(kept: Sequence[Pooled], name: str) -> list[str]:
    """The values of an axis, numbers by size, words by alphabet."""
    words = {axis_cell(one.candidate, name) for one in kept}
    return sorted(words, key=lambda word: (0, float(word), "") if _is_number(word) else (1, 0.0, word))


def _height(levels: Sequence[str], word: str) -> float:
    return levels.index(word) / (len(levels) - 1)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _value(one: Pooled, objective: Objective) -> float:
    metric = one.metric(objective.metric)
    return metric.value if metric is not None else float("nan")


def _title(name: str) -> str:
    row = metric_row(name)
    return metric_title(name, row.unit if row is not None else "")


def phases(trials: Sequence[Trial]) -> Figure:
    """Where each trial's time went, in seconds, in the order they ran; the last PHASES_SHOWN of them."""
    timed = [trial for trial in trials if trial.phase_s][-PHASES_SHOWN:]
    names = [plain(f"{trial.number}: {label(trial.candidate)}") for trial in timed]
    known = dict(PHASES)
    others = sorted({name for trial in timed for name in trial.phase_s} - set(known))
    data = []
    for name, colour in [*PHASES, *((name, f"@e{3 + place % 4}") for place, name in enumerate(others))]:
        seconds = [trial.phase_s.get(name, 0.0) for trial in timed]
        if any(seconds):
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": name,
                    "y": names,
                    "x": rounded(seconds),
                    "marker": {"color": colour},
                    "hovertemplate": f"%{{x:.1f}} s {name}<extra></extra>",
                }
            )
    made = layout("Seconds", "", 110 + 22 * len(timed))
    made |= {"barmode": "stack", "bargap": 0.3}
    made["legend"] |= {"traceorder": "normal", "y": 1.0, "yanchor": "bottom"}
    made["margin"]["t"] = 34
    made["yaxis"] = {"automargin": True, "autorange": "reversed", "type": "category", "tickfont": {"size": 11}}
    return {"data": data, "layout": made}
