"""All figures of a run's page by name, or a sentence where a figure cannot be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.choose.repetitions import Pooled
from harness.measure.metrics import METRICS, metric_row
from harness.records import Metric, Trial
from harness.report.content.levels import is_sweep
from harness.report.content.run_summary import Story, best_per_engine
from harness.report.figures.latency import latency_cdf, percentile_curves
from harness.report.figures.levels import LINES, level_curves
from harness.report.figures.search import (
    LINES_SHOWN,
    PHASES_SHOWN,
    importance_figure,
    parallel,
    phases,
    progress,
)
from harness.report.figures.style import SYMBOLS, Figure, colours, layout, log_axis, plain, rounded
from harness.report.figures.timeline import timeline_figure
from harness.report.series.latency_curves import Samples, lost_sentence, samples_of
from harness.report.series.timeline import timeline
from harness.report.wording.numbers import is_only_bounded_below, metric_text
from harness.report.wording.titles import hover, metric_title, part_shown
from harness.wording import label

CURVES = 16
"""Candidates whose raw records are read for the distributions, the best first."""
TIMELINES = 24
"""Trials with a time line on the page: the recommended one, failed loads, then the rest as the table has them."""
FRONT_POINTS = 600
PERCENTILES = {50: "circle", 90: "diamond", 99: "square"}
"""Marks of the engines' figure, named in its caption."""
WAITS = ("latency", "ttft", "itl", "tpot")
"""How metrics begin that may stand on the upright axis of the front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One place on the page: a figure, several to choose from (name -> figure), the front's points, or a reason.
    `capped` states how many of how many are drawn, which and why; '' when all are."""

    figure: Figure | None = None
    choices: tuple[tuple[str, Figure], ...] = ()
    front: dict[str, Any] | None = None
    missing: str = ""
    capped: str = ""

    @property
    def data(self) -> dict[str, Any] | None:
        """What page.js draws; None when there is nothing to draw."""
        if self.front is not None:
            return {"front": self.front}
        if self.choices:
            return {"choices": [{"name": name, **figure} for name, figure in self.choices]}
        return self.figure


def figures(story: Story) -> dict[str, Drawn]:
    """The figures in the order of the page."""
    samples, lost = _samples(story)
    tints = colours(story.run.trials)
    objective = story.goals.objectives[0]
    measured = [one for one in story.everyone if one.metric(objective.metric) is not None]
    timed = [trial for trial in story.run.trials if trial.phase_s]
    curves = part_shown(
        min(CURVES, len(ranked(story))),
        len(ranked(story)),
        "candidates",
        f"the recommended one, then feasible ones by {objective.metric}, since more curves hide each other",
    )
    curves = " ".join(filter(None, (curves, lost_sentence(lost))))
    lines = part_shown(
        min(LINES_SHOWN, len(measured)), len(measured), "candidates", f"the best by {objective.metric}, to stay legible"
    )
    bars = part_shown(min(PHASES_SHOWN, len(timed)), len(timed), "trials", "the last ones, to keep the page small")
    no_records = "No raw request records are left in this run, so there is no distribution to draw."
    few = f"Fewer than two candidates have a value of {objective.metric}; nothing to compare."
    return {
        "front": _front(story),
        "cdf": _drawn(latency_cdf(samples, story.chosen_id, tints), no_records, curves),
        "percentiles": _drawn(percentile_curves(samples, story.chosen_id, tints), no_records, curves),
        "engines": _drawn(engine_ranges(story), "No engine has a measured latency."),
        "timeline": _timelines(story),
        "levels": _levels(story, tints),
        "progress": _drawn(progress(story.run), f"No trial has a value of {objective.metric}."),
        "importance": _drawn(importance_figure(story.importances), ""),
        "parallel": _drawn(parallel(story.everyone, story.goals, story.chosen_id), few, lines),
        "phases": _drawn(phases(story.run.trials), "No trial got as far as being timed.", bars),
    }


def _drawn(figure: Figure, missing: str, capped: str = "") -> Drawn:
    return Drawn(figure=figure, capped=capped) if figure["data"] else Drawn(missing=missing)


def _samples(story: Story) -> tuple[list[Samples], list[str]]:
    """Of the first candidates, and the trials that could not be read."""
    found: list[Samples] = []
    lost: list[str] = []
    for one in ranked(story)[:CURVES]:
        made, gone = samples_of(story.run, [trial for trial in one.trials if trial.outcome == "ok"] or one.trials)
        lost += gone
        if made is not None:
            found.append(made)
    return found, lost


def ranked(story: Story) -> list[Pooled]:
    """Candidates that ran: the chosen one, then as ranked."""
    return [one for one in story.ranked() if one.worst.outcome == "ok"]


def _timelines(story: Story) -> Drawn:
    trials = [trial for one in ranked(story) for trial in one.trials]
    verify = story.verification.trial if story.verification is not None else None
    ids = {trial.trial_id for trial in trials}
    rest = [trial for trial in story.run.trials if trial.trial_id not in ids]
    choices: list[tuple[str, Figure]] = []
    everything = [*trials[:1], *([verify] if verify is not None else []), *trials[1:], *rest]
    for trial in everything:
        line = timeline(story.run, trial) if len(choices) < TIMELINES else None
        if line is not None:
            choices.append((_choice_name(story, trial), timeline_figure(line)))
    if not choices:
        return Drawn(missing="No raw request records are left in this run, so there is no time line to draw.")
    which = "the recommended one, its verification, then the best, to keep the page small"
    capped = part_shown(len(choices), len(everything), "trials", which) if len(choices) == TIMELINES else ""
    return Drawn(choices=tuple(choices), capped=capped)


def _choice_name(story: Story, trial: Trial) -> str:
    kind = "verification" if trial.trial_id.startswith("verify") else f"trial {trial.number}"
    mark = " ★" if trial.candidate.candidate_id == story.chosen_id else ""
    outcome = "" if trial.outcome == "ok" else f" ({trial.outcome})"
    return f"{kind}: {label(trial.candidate)}{mark}{outcome}"


def _levels(story: Story, tints: Mapping[str, str]) -> Drawn:
    """Nothing, without a word, where the load was no sweep."""
    levels = {probe.level for trial in story.run.trials if is_sweep(trial) for probe in trial.probes}
    ordered = sorted(levels, key=lambda level: level.value)
    shown = ranked(story)
    capped = part_shown(min(LINES, len(shown)), len(shown), "candidates", "the best, since more lines hide each other")
    choices = level_curves(shown, ordered, story.chosen_id, tints)
    return Drawn(choices=choices, capped=capped) if choices else Drawn(missing="")


def _front(story: Story) -> Drawn:
    """Points of every measured candidate with every metric; page.js draws the two that are asked for."""
    shown = [one for one in ranked(story)[:FRONT_POINTS] if one.metric(story.goals.objectives[0].metric) is not None]
    names = [name for name in METRICS if sum(one.metric(name) is not None for one in shown) >= min(2, len(shown))]
    up = [name for name in names if name.startswith(WAITS)]
    across = [name for name in names if name not in up]
    if not shown or not up or not across:
        return Drawn(missing="No candidate has both a latency and something to hold against it.")
    first = story.goals.objectives[0].metric
    tints = colours(story.run.trials)
    points = []
    for one in shown:
        trial = one.evidence(story.goals)
        points.append(
            {
                "name": plain(label(one.candidate)),
                "engine": plain(one.candidate.engine),
                "colour": tints[one.candidate.engine],
                "symbol": SYMBOLS.get(one.candidate.dtype, "cross"),
                "dtype": plain(one.candidate.dtype),
                "feasible": one.is_feasible,
                "chosen": one.candidate.candidate_id == story.chosen_id,
                "trial": trial.trial_id,
                "hover": hover(trial),
                "m": {name: _ends(metric) for name in names if (metric := one.metric(name)) is not None},
            }
        )
    return Drawn(
        front={
            "points": points,
            "metrics": {name: _metric_facts(name, shown) for name in names},
            "up": up,
            "across": across,
            "y": first if first in up else "latency_p50_ms" if "latency_p50_ms" in up else up[0],
            "x": "throughput_rps" if "throughput_rps" in across else across[0],
        },
        capped=part_shown(
            min(FRONT_POINTS, len(ranked(story))), len(ranked(story)), "candidates", f"the best by {first}"
        ),
    )


def _metric_facts(name: str, shown: Sequence[Pooled]) -> dict[str, Any]:
    row = metric_row(name)
    unit = next((metric.unit for one in shown if (metric := one.metric(name)) is not None), "")
    return {
        "title": metric_title(name, unit),
        "unit": unit,
        "smaller": row is not None and row.better == "minimize",
        "help": row.help if row is not None else "",
    }


def _ends(metric: Metric) -> list[float | None]:
    """The value and the ends of its 95 % interval; a race's bound is none."""
    scale = 100 if metric.unit == "frac" else 1
    is_interval = metric.method != "race"
    values = (metric.value, metric.low if is_interval else None, metric.high if is_interval else None)
    return [None if value is None else rounded([scale * value])[0] for value in values]


def engine_ranges(story: Story) -> Figure:
    """P50, P90 and P99 of each engine's best candidate on one line per engine; hollow where only a bound is proven."""
    best = [one for one in best_per_engine(story) if one.metric("latency_p50_ms") is not None]
    tints = colours(story.run.trials)
    data, values = [], []
    for one in reversed(best):
        found = [(q, metric) for q in PERCENTILES if (metric := one.metric(f"latency_p{q}_ms")) is not None]
        x = rounded(metric.value for _, metric in found)
        values += x
        tint = tints[one.candidate.engine]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(one.candidate.engine),
                "showlegend": False,
                "x": x,
                "y": [plain(one.candidate.engine)] * len(x),
                "line": {"color": tint, "width": 3},
                "marker": {
                    "color": tint,
                    "size": 11,
                    "symbol": [
                        PERCENTILES[q] + ("-open" if is_only_bounded_below(metric) else "") for q, metric in found
                    ],
                    "line": {"width": 2, "color": tint},
                },
                "text": [f"p{q}: {plain(metric_text(metric))} ms" for q, metric in found],
                "hovertemplate": f"%{{text}}<br>{plain(label(one.candidate))}<extra></extra>",
            }
        )
    made = layout("Latency (ms)", "", 96 + 48 * len(best))
    if values and min(values) > 0:
        made["xaxis"] |= (
            log_axis(min(values), max(values)) if max(values) / min(values) > 5 else {"rangemode": "tozero"}
        )
    made["yaxis"] |= {"type": "category", "showgrid": False, "range": [-0.5, len(best) - 0.35]}
    return {"data": data, "layout": made}
