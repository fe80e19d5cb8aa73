"""The warm-up of a server whose times drift at first, which lasts until latencies are steady.

Rounds of the trial's own load, each as long as all before it, until one of them is steady by the rule that doubts
measured windows (statistics/steady_state.py): what drifts as slowly as the rounds grow is not seen by any of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from engines.api import RunningEngine
from harness.load.driver import LoadState, drive
from harness.load.hosts.coordinator import LoadHosts
from harness.load.plan import START_USERS, LoadPlan
from harness.load.served_model import ServedModel
from harness.measure.statistics.steady_state import SMALLEST_N, unsteadiness
from harness.scenario.load_kinds import Load, Open
from harness.trial.progress import Phase, Progress
from harness.units import ms_from_ns

MOST_S = 60.0
"""A server that drifts for longer is measured as it is, with the doubt that its window then gets."""
QUARTER = 4
"""The first round is a quarter of what will be measured, by requests and by time."""
NAME = "warm-up"

Clock = Callable[[], float]


def steady_warm_up(
    plan: LoadPlan,
    engine: RunningEngine,
    workdir: Path,
    progress: Progress,
    load: Load,
    *,
    hosts: LoadHosts | None,
    model: ServedModel,
    now_s: Clock = time.monotonic,
) -> tuple[str, ...]:
    """A note on how long the warm-up lasted and whether it became steady; none where the engine's facts ask for none.

    `plan` is the closed loop of `load`, or what an open `load` plans without its schedule. Its records are not kept.
    Raises as drive does.
    """
    if not engine.facts.is_slow_to_warm:
        return ()
    if plan.locustfile:
        return (f"{NAME} was not prolonged until latencies were steady: a locustfile decides the load",)
    begun_s, sent, rounds, most_ok = now_s(), 0, 0, 0
    how = f"{MOST_S:g} s without becoming steady"
    count, lasts_s = max(SMALLEST_N, plan.requests // QUARTER), plan.max_duration_s / QUARTER
    known = len(plan.input_lengths or plan.output_lengths or plan.turns)  # of no more it states what they carry
    if isinstance(load, Open):
        plan = replace(plan, users=min(load.max_in_flight, START_USERS), processes=hosts.expected if hosts else 1)
    while (left_s := MOST_S - (now_s() - begun_s)) > 0 and engine.failure() is None:
        result = drive(
            replace(plan, requests=min(count, known or count), warmup_requests=0, max_duration_s=min(lasts_s, left_s)),
            workdir / NAME,
            should_stop=engine.failure,
            on_progress=lambda done: None,
            on_state=partial(_show, progress, count, rounds + 1),
            open_processes=hosts.open if hosts else None,
            model=model,
        )
        rounds, sent = rounds + 1, sent + len(result.records)
        count, lasts_s = max(SMALLEST_N, sent), now_s() - begun_s
        ok_ms = [ms_from_ns(record.latency_ns) for record in result.records if record.outcome == "ok"]
        most_ok = max(most_ok, len(ok_ms))
        if result.stopped or result.too_many_errors:
            how = "until it was stopped"
            break
        if len(ok_ms) >= SMALLEST_N and unsteadiness(ok_ms) is None:
            how = "until latencies were steady"
            break
    else:
        how = how if most_ok >= SMALLEST_N else f"{MOST_S:g} s with too few requests to judge by"
    return (f"{NAME} lasted {how}: {sent} requests in {rounds} round(s), {now_s() - begun_s:.1f} s",)


def _show(progress: Progress, total: int, number: int, state: LoadState) -> None:
    text = f"until latencies are steady, round {number}"
    progress.on_phase(Phase(name=NAME, done=state.done, total=total, text=text))
