"""The check before a machine is split: a part measures the calibration candidate alone and beside the other parts.

Rounds in turns, alone, beside, beside, alone, so that a drift cancels: four, or as many as parts where these are more,
since each round looks at the next part. The parts are used only where the upper bound of the slowdown is below 2 %. One
launch before them fills the machine's caches and has its answers judged, which no later one needs.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import takewhile
from statistics import fmean, stdev

from harness.errors import EnvironmentFault
from harness.measure.machine.calibration import Calibration
from harness.measure.statistics.distributions import t_quantile
from harness.places.cluster import Cluster, Lost, Refused, Task, part_of, parts_of, short
from harness.places.requests import Measure
from harness.records import Trial
from harness.store.archive import DamagedArchive, unpack
from harness.store.codec import to_json

ROUNDS = 4
LIMIT_FRAC = 0.02
LEVEL = 0.95
APART_FRAC = 0.1
"""Of a load; while it runs beside nothing it shows no slowdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a machine is split, and the sentence for people."""

    is_split: bool
    sentence: str


def check_split(
    cluster: Cluster,
    machines: Collection[str],
    measure: Measure,
    metric: str,
    limit_s: float,
    note: Callable[[str, str], None] = lambda machine, text: None,
) -> dict[str, Verdict]:
    """Verdicts on the machines of these nodes, all of which launch at one time; where one shows nothing, on it alone.
    `measure` is the order for the calibration candidate, `limit_s` how long a launch may take; `note` gets a line for
    each round of a machine that begins. Raises EnvironmentFault where a part does not answer."""
    running = {
        machine: _rounds(parts_of([machine], cluster.split), metric, partial(note, machine)) for machine in machines
    }
    asked = {machine: next(rounds) for machine, rounds in running.items()}
    found: dict[str, Verdict] = {}
    while not found:
        trials = _launched(cluster, [part for parts in asked.values() for part in parts], measure, limit_s)
        if measure.judged is None:  # the same candidate gives the same answers
            judged = (each for each in trials.values() if each.has_numbers and each.is_judged)
            measure = replace(measure, judged=next(judged, None))
        for machine, rounds in running.items():
            try:
                asked[machine] = rounds.send(trials)
            except StopIteration as end:
                found[machine] = end.value
    return found


def _rounds(
    parts: Sequence[str], metric: str, note: Callable[[str], None]
) -> Generator[Sequence[str], Mapping[str, Trial], Verdict]:
    """Yields the parts of a machine that shall measure at one time, is sent their trials, and ends in its verdict."""
    yield parts[:1]
    ratios: list[float] = []
    rounds = max(ROUNDS, len(parts))
    for number in range(rounds):
        looked_at = parts[number % len(parts)]
        so_far = f"; slower by {math.expm1(fmean(ratios)):.1%} so far" if ratios else ""
        note(f"round {number + 1} of {rounds}: part {part_of(looked_at)} alone, twice beside the others, alone{so_far}")
        logs = []
        for asked in ([looked_at], parts, parts, [looked_at]):
            trials = yield asked
            if why := _why_nothing([trials[part] for part in asked], metric):
                return Verdict(is_split=False, sentence=why)
            logs.append(_log(trials[looked_at], metric))
        ratios.append((logs[1] + logs[2] - logs[0] - logs[3]) / 2)
    frac, upper_frac = slowdown(ratios)
    what = (
        f"beside the others one of its {len(parts)} parts is slower by {frac:.1%}, at most {upper_frac:.1%} ({metric}; "
        f"rounds {', '.join(f'{math.expm1(ratio):+.1%}' for ratio in ratios)})"
    )
    if upper_frac < LIMIT_FRAC:
        return Verdict(is_split=True, sentence=what)
    return Verdict(is_split=False, sentence=f"{what}; less than {LIMIT_FRAC:.0%} were needed")


def slowdown(rounds: Sequence[float]) -> tuple[float, float]:
    """By how much a part is slower beside the others (0.01: 1 %), and its one-sided 95 % upper bound: Student's t over
    the logarithms of the ratio beside to alone of each round, at least two."""
    middle = fmean(rounds)
    half = t_quantile(LEVEL, len(rounds) - 1) * stdev(rounds) / math.sqrt(len(rounds))
    return math.expm1(middle), math.expm1(middle + half)


def _launched(cluster: Cluster, parts: Collection[str], measure: Measure, limit_s: float) -> dict[str, Trial]:
    """Part -> its trial, all launched at one time."""
    asked: dict[Task, tuple[str, str]] = {}
    trials: dict[str, Trial] = {}
    try:
        for part in parts:
            token = secrets.token_hex(8)
            asked[cluster.ask(part, "measure", json.dumps(to_json(replace(measure, token=token))))] = part, token
        while asked:
            task = cluster.wait(list(asked), limit_s)
            if task is None:
                raise EnvironmentFault(f"--split: no part answered within {limit_s:.0f} s; leave it out")
            part, token = asked.pop(task)
            try:
                trials[part] = unpack(cluster.answer(task), token).trial
            except (Refused, Lost, DamagedArchive) as error:
                raise EnvironmentFault(f"--split: part {short(part)} did not measure: {error}") from error
    finally:
        for task in asked:
            cluster.cancel(task)
    return trials


def _log(trial: Trial, metric: str) -> float:
    """NaN where the trial has no such number."""
    slowness = Calibration(round=0, after_trials=0, metric=metric, trial=trial).log_slowness
    return math.nan if slowness is None else slowness


def _why_nothing(trials: Sequence[Trial], metric: str) -> str:
    """'' or why launches at one time show nothing: one fails, or its load began when a tenth of the shortest was over;
    times of the start have whole seconds."""
    for trial in trials:
        if math.isnan(_log(trial, metric)):
            how = f"with {len(trials)} of its parts at once" if len(trials) > 1 else "on a part alone"
            return f"{how} the calibration candidate fails: {trial.reason or f'no {metric}'}"
    begun = [_load_begin_s(trial) for trial in trials]
    apart_s, shortest_s = max(begun) - min(begun), min(trial.phase_s.get("load", 0.0) for trial in trials)
    if apart_s <= shortest_s * APART_FRAC + 1:
        return ""
    return (
        f"the loads of its parts began {apart_s:.0f} s apart, the shortest took {shortest_s:.0f} s: that shows nothing "
        "of how they measure side by side; give a longer load, a worker of Dask's a thread more than parts, and end "
        "other searches there"
    )


def _load_begin_s(trial: Trial) -> float:
    """When its load began, in seconds since 1970: after the phases before it."""
    before = takewhile(lambda phase: phase != "load", trial.phase_s)
    return datetime.fromisoformat(trial.started_utc).timestamp() + sum(trial.phase_s[phase] for phase in before)
