"""The check before a machine is split: a part measures the calibration candidate alone and beside the other parts.

Rounds in turns, alone, beside, beside, alone, so that a drift cancels: four, or as many as parts where these are more,
since each round looks at the next part. The parts are used only where the upper bound of the slowdown is below 2 %. One
launch before them fills the machine's caches and has its answers judged, which no later one needs.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from statistics import fmean, stdev

from harness.errors import EnvironmentFault
from harness.measure.machine.calibration import Calibration
from harness.measure.statistics.distributions import t_quantile
from harness.places.cluster import Lost, Refused, Task
from harness.places.requests import Measure
from harness.places.split import Split
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


Launches = Generator[tuple[str, ...], Mapping[str, Trial], Verdict]
"""Parts that shall measure at one time; their trials are sent in."""


def slowdown(rounds: Sequence[float]) -> tuple[float, float]:
    """By how much a part is slower beside the others (0.01: 1 %), and its one-sided 95 % upper bound: Student's t over
    the logarithms of the ratio beside to alone of each round, at least two."""
    middle = fmean(rounds)
    half = t_quantile(LEVEL, len(rounds) - 1) * stdev(rounds) / math.sqrt(len(rounds))
    return math.expm1(middle), math.expm1(middle + half)


def launches(parts: Sequence[str], metric: str) -> Launches:
    """The launches on the parts of one machine, until its verdict."""
    ratios = []
    yield (parts[0],)
    for number in range(max(ROUNDS, len(parts))):
        looked_at = parts[number % len(parts)]
        logs: dict[int, list[float]] = {1: [], len(parts): []}
        for asked in ((looked_at,), tuple(parts), tuple(parts), (looked_at,)):
            trials = yield asked
            found = {part: _log(trial, metric) for part, trial in trials.items()}
            for part, trial in trials.items():
                if found[part] is None:
                    how = f"with {len(asked)} of its parts at once" if len(asked) > 1 else "on a part alone"
                    why = f"{how} the calibration candidate fails: {trial.reason or f'no {metric}'}"
                    return Verdict(is_split=False, sentence=why)
            if (why := _why_apart(trials.values())) != "":
                return Verdict(is_split=False, sentence=why)
            logs[len(asked)].append(found[looked_at] or 0.0)
        ratios.append(fmean(logs[len(parts)]) - fmean(logs[1]))
    return _verdict(ratios, len(parts), metric)


def check_split(
    cluster: Split, nodes: Collection[str], measure: Measure, metric: str, limit_s: float
) -> dict[str, Verdict]:
    """Machine -> its verdict, all of `nodes` at one time until the first that is not split; `measure` is the order for
    the calibration candidate, `limit_s` how long a launch may take. Raises EnvironmentFault where a part does not
    answer."""
    running = {node: launches(cluster.parts(node), metric) for node in nodes}
    asked: dict[Task, tuple[str, str, str]] = {}
    trials: dict[str, dict[str, Trial]] = {}
    found: dict[str, Verdict] = {}
    judged: Trial | None = None

    def launch(node: str, parts: Collection[str]) -> None:
        trials[node] = {}
        for part in parts:
            token = secrets.token_hex(8)
            order = replace(measure, token=token, judged=judged)
            asked[cluster.ask(part, "measure", json.dumps(to_json(order)))] = node, part, token

    try:
        for node, steps in running.items():
            launch(node, next(steps))
        while asked and all(each.is_split for each in found.values()):
            task = cluster.wait(list(asked), limit_s)
            if task is None:
                raise EnvironmentFault(f"--split: no part answered within {limit_s:.0f} s; leave it out")
            node, part, token = asked.pop(task)
            trials[node][part] = trial = _answer(cluster, task, part, token)
            judged = judged or (trial if trial.has_numbers and trial.is_judged else None)
            if any(each == node for each, _, _ in asked.values()):
                continue
            try:
                launch(node, running[node].send(trials[node]))
            except StopIteration as end:
                found[node] = end.value
    finally:
        for task in asked:
            cluster.cancel(task)
    return found


def _answer(cluster: Split, task: Task, part: str, token: str) -> Trial:
    try:
        return unpack(cluster.answer(task), token).trial
    except (Refused, Lost, DamagedArchive) as error:
        raise EnvironmentFault(f"--split: part {part} did not measure: {error}") from error


def _verdict(ratios: Sequence[float], count: int, metric: str) -> Verdict:
    frac, upper_frac = slowdown(ratios)
    what = (
        f"beside the others one of its {count} parts is slower by {frac:.1%}, at most {upper_frac:.1%} ({metric}; "
        f"rounds {', '.join(f'{math.expm1(ratio):+.1%}' for ratio in ratios)})"
    )
    if upper_frac < LIMIT_FRAC:
        return Verdict(is_split=True, sentence=what)
    return Verdict(is_split=False, sentence=f"{what}; less than {LIMIT_FRAC:.0%} were needed")


def _log(trial: Trial, metric: str) -> float | None:
    return Calibration(round=0, after_trials=0, metric=metric, trial=trial).log_slowness


def _why_apart(trials: Collection[Trial]) -> str:
    """'' or that one's load began when a tenth of the shortest was over; times of the start have whole seconds."""
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
