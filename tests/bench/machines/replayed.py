"""The search with its own sampler replayed on 1, 2, 4 and 8 machines in memory: how good the answer is, how soon.

Machines are equal, each launch has 4 % of noise, and a trial lasts as long as a launch of the calibration. One machine
is the serial search. Of one seed the first launch of a candidate has the same noise on any number of machines, and so
has each of its repetitions: what differs is what was launched. Nothing is timed: a busy machine changes nothing.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from unittest.mock import patch

from harness.choose.decide import Choice, decide
from harness.choose.goals import goals_of
from harness.clock import FakeClock
from harness.measure.machine.calibration import MachineOfRun
from harness.measure.statistics.distributions import t_quantile
from harness.places.requests import Measure
from harness.records import Candidate, Trial
from harness.store.reader import marked
from harness.tune import loop
from harness.tune.search_records import SearchContext
from tests.bench.machines.simulation import NOISE, SPACE, ProgrammedCluster, places_of
from tests.harness.tune.landscape import NoStudy, best_latency_ms, latency_ms, plan, scenario

NODES = (1, 2, 4, 8)
AIMS = {2: 1.9, 4: 3.6, 8: 6.5}
UPPER_AIM, WINNER_AIM = 0.02, 0.95
CONFIRM = {"finalists": 3, "repetitions": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One search: the choice, its regret, and the seconds of its search phase."""

    choice: Choice
    regret_frac: float
    search_s: float


def replay(nodes: int, seed: int, folder: Path, *, is_grid: bool = False) -> Replay:
    """48 trials on so many machines: of 432 candidates by the default sampler, or all of 48 by grid."""
    search = {"trials": 48, "seed": seed, "max_minutes": 1e5, "confirm": CONFIRM, "race": False}
    of = scenario({**search, "sampler": "grid"}, space=SPACE) if is_grid else scenario(search)
    cluster = ProgrammedCluster(folder, lambda machine, measure: _noise(seed, machine, measure), of, nodes)
    done: list[Trial] = []
    machines: list[tuple[MachineOfRun, ...]] = [()]
    places = places_of(cluster, of, folder, machines, [])
    with ExitStack() as patched:
        patched.enter_context(patch.object(loop, "StudyRecord", NoStudy))
        places.admit()
        context = SearchContext(
            scenario=of, plan=plan(of), study_path=folder, places=places, record_trial=done.append, clock=FakeClock()
        )
        loop.search(context)
    unranked = {each.machine_id: each.why for each in machines[-1] if each.ranked != "ranked"}
    choice = decide([marked(trial, unranked) for trial in done], goals_of(of))
    return Replay(
        choice=choice,
        regret_frac=latency_ms(choice.chosen.candidate) / best_latency_ms(of) - 1,
        search_s=max(cluster.ended_s) - min(cluster.begun_s),
    )


def _noise(seed: int, machine: str, measure: Measure) -> float:
    """The factor of one launch."""
    which = [measure.prefix, machine, measure.number] if measure.prefix else [measure.repetition]
    rng = random.Random(json.dumps([seed, measure.candidate.candidate_id, *which]))
    return math.exp(rng.gauss(0, NOISE))


def replay_rows(seeds: int) -> list[dict[str, object]]:
    """For each count of machines: regret against the serial search of the same seed, and winners of the grid."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {count: [replay(count, seed, folder) for seed in range(seeds)] for count in NODES}
        grids = {count: [replay(count, seed, folder, is_grid=True) for seed in range(seeds)] for count in NODES}
    rows: list[dict[str, object]] = []
    for count in NODES:
        excess = [mine.regret_frac - its.regret_frac for mine, its in zip(found[count], found[1], strict=True)]
        same = [is_same(mine.choice, its.choice) for mine, its in zip(grids[count], grids[1], strict=True)]
        rows.append(
            {
                "nodes": count,
                "seeds": seeds,
                "sampler": scenario().search.sampler,
                "regret_frac": round(fmean(each.regret_frac for each in found[count]), 5),
                "excess_frac": round(fmean(excess), 5),
                "excess_upper_frac": round(upper_bound(excess), 5),
                "same_winner": sum(same),
                "speed_up": round(fmean(s.search_s for s in grids[1]) / fmean(s.search_s for s in grids[count]), 2),
                "aim": AIMS.get(count),
            }
        )
    return rows


def is_same(one: Choice, other: Choice) -> bool:
    """Whether two searches recommend the same candidate, or each one's is in the other's tie."""
    first, second = one.chosen.candidate, other.chosen.candidate
    return first == second or (second in _tie(one) and first in _tie(other))


def _tie(choice: Choice) -> list[Candidate]:
    return [each.candidate for each in choice.tied]


def upper_bound(values: Sequence[float]) -> float:
    """The upper end of a one-sided 95 % interval of the mean, by Student's t."""
    spread = stdev(values) if len(values) > 1 else math.inf
    return fmean(values) + t_quantile(0.95, len(values) - 1) * spread / math.sqrt(len(values))


def _since(rows: Sequence[dict[str, object]]) -> str:
    """'' or that the default has changed since."""
    now = scenario().search.sampler
    return "" if rows[0]["sampler"] == now else f" Today's default, {now} (entry 94), is not measured here."


def _missed(rows: Sequence[dict[str, object]]) -> list[str]:
    """The sentence about the aims that are missed, if any."""
    missed = [
        f"the upper bound at 2 machines ({100 * upper:.2f} %)"
        for one in rows
        if one["nodes"] == 2 and (upper := float(str(one["excess_upper_frac"]))) > UPPER_AIM
    ]
    missed += [
        f"the same winner at {one['nodes']} machines ({100 * frac:.0f} %)"
        for one in rows
        if (frac := int(str(one["same_winner"])) / int(str(one["seeds"]))) < WINNER_AIM
    ]
    return [f"Missed: {', '.join(missed)}."] if missed else []


def replay_table(rows: Sequence[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = [
        "# The same search on 1, 2, 4 and 8 equal machines, replayed",
        "",
        f"Searches of 48 trials, {100 * NOISE:g} % of noise a launch, three finalists three times each; without races.",
        "A candidate's first launch has the same noise on any number of machines, and so has each of its repetitions.",
        f"Sampler: {rows[0]['sampler']}, the default of the code that was measured.{_since(rows)}",
        "Regret: how much worse than the best of 432 candidates the recommended one truly is; excess: over the serial",
        "search of the same seed, and its one-sided upper 95 % bound (paired, Student's t).",
        "Same winner: a grid over all of 48 candidates recommends what the serial one does, or the two tie.",
        f"Aims: an upper bound of at most {100 * UPPER_AIM:g} % at 2 machines, and the same winner in at least "
        f"{100 * WINNER_AIM:g} %.",
        *_missed(rows),
        "Speed-up: of that grid's search phase, calibration included, where each trial and launch lasts equally long.",
        "Written by `make bench-machines BENCH='--replay 50'`.",
        "",
        "| machines | regret | excess | upper bound | same winner | speed-up | aim of speed-up |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in rows:
        fracs = (f"{one[name]:.2%}" for name in ("regret_frac", "excess_frac", "excess_upper_frac"))
        shown = (one["nodes"], *fracs, f"{one['same_winner']}/{one['seeds']}", one["speed_up"], one["aim"] or "")
        lines.append(f"| {' | '.join(map(str, shown))} |")
    return "\n".join(lines) + "\n"
