"""A landscape as Markdown: how many candidates are good, how much launches differ, whether the machine drifted."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np

from harness.choose.goals import goals_of
from harness.measure.metrics import metric_of
from harness.measure.statistics.distributions import t_quantile
from harness.records import Trial
from harness.tune.spreads import squares
from tests.bench.landscapes.landscape import Landscape, Launch

TABLE = "table.md"
GOOD_FRAC = 0.05
SHOWN = 10
PAUSE_S = 60.0
"""Between two trials; longer is a pause of the recording."""


def table(found: Landscape) -> str:
    """The landscape in words and numbers, and its best candidates."""
    goal = goals_of(found.scenario).objectives[0]
    machine = found.machine
    flags = ", ".join(str(flag) for flag in machine["cpu_flags"])
    missing = found.planned - len(found.launches)
    lines = [
        f"# The landscape {found.scenario.name}",
        "",
        found.scenario.description,
        "",
        f"Recorded by `make bench-landscapes`, commit {found.commit or 'unknown'}. landscape.parquet has a row for",
        "each launch with its trial and its requests (tests/bench/landscapes/landscape.py). The objective is",
        f"`{goal.metric}`, {'the lower the better' if goal.is_minimized else 'the higher the better'}.",
        "",
        *([f"**Not whole: {missing} of {found.planned} trials are still to be recorded.**", ""] if missing else []),
        f"* CPU: {machine['cpu_model']}, {machine['cores_usable']} cores; {flags}.",
        *(f"* {line}" for line in _facts(found, goal.metric)),
        "",
        *_best(found, goal.metric, is_minimized=goal.is_minimized),
    ]
    return "\n".join(lines) + "\n"


def values_of(found: Landscape, metric: str) -> dict[str, tuple[float, float]]:
    """Candidate id -> what its two launches measured, of all that are feasible in both."""
    both = {}
    for name, pair in found.pairs.items():
        values = [_value(each.trial, metric) for each in pair if each.trial.is_feasible]
        if len(values) == len(pair):
            both[name] = values[0], values[1]
    return both


def good_frac(found: Landscape, metric: str, *, is_minimized: bool) -> float:
    """The share of all candidates whose two launches are, by their geometric mean, within GOOD_FRAC of the best."""
    means = [math.sqrt(first * second) for first, second in values_of(found, metric).values()]
    if not means:
        return 0.0
    losses = [(each / min(means) if is_minimized else max(means) / each) - 1 for each in means]
    return sum(loss <= GOOD_FRAC for loss in losses) / found.plan.size


def _facts(found: Landscape, metric: str) -> Iterator[str]:
    launches = found.launches
    if not launches:
        return
    trials = [each.trial for each in launches]
    outcomes = ", ".join(f"{count} {name}" for name, count in Counter(each.outcome for each in trials).most_common())
    yield f"{found.plan.size} candidates, {len(found.pairs)} launched twice; {len(launches)} launches: {outcomes}."
    goal = goals_of(found.scenario).objectives[0]
    share = good_frac(found, metric, is_minimized=goal.is_minimized)
    yield f"Within {GOOD_FRAC:.0%} of the best, by the mean of both launches: {share:.1%} of the candidates."
    yield from _spreads(found, metric)
    yield from _drift(found.anchors, metric)
    half = [
        (one.high - one.low) / 2 / one.value
        for one in (metric_of(each, metric) for each in trials)
        if one is not None and one.low is not None and one.high is not None
    ]
    if half:
        yield f"Half the objective's 95 % interval, median over launches: {statistics.median(half):.1%}."
    yield from _costs(launches)
    others = [one.value for one in (metric_of(each, "cpu_frac_other") for each in trials) if one is not None]
    if others:
        yield f"CPU taken by other processes: median {statistics.median(others):.1%}, at most {max(others):.1%}."
    judged = Counter(each.quality.verdict for each in trials if each.quality is not None and each.is_judged)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in judged.most_common())
    yield f"Answers judged once per numeric path: {verdicts or 'none'}."


def _spreads(found: Landscape, metric: str) -> Iterator[str]:
    twice = [each.trial for pair in found.pairs.values() for each in pair]
    for engine, one in sorted(squares(twice, metric).items()):
        if one.freedom:
            spread = math.sqrt(one.total / one.freedom)
            yield (
                f"Two launches of {engine} differ by {math.sqrt(2) * spread:.1%} (standard deviation; one launch: "
                f"{spread:.1%}; {one.freedom} pairs)."
            )


def _drift(anchors: Sequence[Launch], metric: str) -> Iterator[str]:
    """The anchor's trend: a line through the logarithms by least squares, with its 95 % interval (t, n - 2)."""
    points = [
        (datetime.fromisoformat(each.trial.started_utc).timestamp() / 3600, math.log(_value(each.trial, metric)))
        for each in anchors
        if each.trial.is_feasible
    ]
    if len(points) < 4:
        yield f"The anchor was launched {len(points)} times, too few for a trend."
        return
    hours, logs = np.array(points).T
    hours = hours - hours.mean()
    slope = float((hours * logs).sum() / (hours**2).sum())
    rest = logs - logs.mean() - slope * hours
    half = t_quantile(0.975, len(points) - 2) * math.sqrt(float((rest**2).sum() / (len(points) - 2) / (hours**2).sum()))
    yield (
        f"The anchor, {len(points)} launches: spread {float(logs.std(ddof=1)):.1%}, trend {slope:+.1%} an hour "
        f"(95 % interval {slope - half:+.1%} to {slope + half:+.1%})."
    )


def _costs(launches: Sequence[Launch]) -> Iterator[str]:
    for name, is_cold in (("first of an engine and dtype", True), ("later", False)):
        mine = [each.trial.phase_s for each in launches if each.is_cold == is_cold and each.trial.has_numbers]
        if mine:
            parts = ", ".join(
                f"{phase} {statistics.median([each[phase] for each in mine if phase in each]):.1f}"
                for phase in ("launch", "quality", "load")
                if any(phase in each for each in mine)
            )
            yield f"Seconds, median of {len(mine)} launches, {name}: {parts} (warm-up is in the load)."
    starts = [datetime.fromisoformat(each.trial.started_utc).timestamp() for each in launches]
    ends = [start + each.trial.duration_s for start, each in zip(starts, launches, strict=True)]
    gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
    pauses = [gap for gap in gaps if gap > PAUSE_S]
    minutes = (ends[-1] - starts[0] - sum(pauses)) / 60
    paused = f", paused {len(pauses)} times, {sum(pauses) / 60:.0f} min in all" if pauses else ", without a pause"
    yield f"Recorded from {launches[0].trial.started_utc} in {minutes:.0f} minutes{paused}."


def _best(found: Landscape, metric: str, *, is_minimized: bool) -> Iterator[str]:
    values = values_of(found, metric)
    by_id = {each.candidate_id: each for each in found.plan.candidates}
    names = [name for name in by_id if name in values]
    names.sort(key=lambda name: values[name][0] * values[name][1], reverse=not is_minimized)
    varying = _varying(found)
    yield f"The {SHOWN} best and the {SHOWN} worst, by the mean of both launches:" if len(names) > 2 * SHOWN else "All:"
    yield ""
    yield f"| {' | '.join(['place', *(axis.removeprefix('options.') for axis in varying), 'first', 'second'])} |"
    yield f"| {' | '.join(['---:', *('---' for _ in varying), '---:', '---:'])} |"
    for place, name in enumerate(names, 1):
        if SHOWN < place <= len(names) - SHOWN:
            continue
        axes = by_id[name].axes()
        cells = [str(place), *(str(axes.get(axis, "")) for axis in varying), *(f"{each:.4g}" for each in values[name])]
        yield f"| {' | '.join(cells)} |"


def _varying(found: Landscape) -> list[str]:
    """The axes whose values differ between candidates, in their order."""
    every = [each.axes() for each in found.plan.candidates]
    names = list(dict.fromkeys(name for axes in every for name in axes))
    return [name for name in names if len({str(axes.get(name)) for axes in every}) > 1]


def _value(trial: Trial, metric: str) -> float:
    found = metric_of(trial, metric)
    assert found is not None
    return found.value
