"""Searches on four machines in memory whose speeds are programmed: which are set aside, and what is chosen.

The search, its places, their calibration and the choice are the real ones; only the cluster is in memory, and what a
candidate measures is a formula times the machine's factor and 4 % of noise for each launch.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from harness.choose.decide import decide
from harness.choose.goals import goals_of
from harness.clock import FakeClock
from harness.measure.machine.calibration import MachineOfRun
from harness.measure.machine.machine_class import Machine
from harness.places.calibrator import CalibrationTerms, Calibrator
from harness.places.cluster_places import Asked, FarPlaces
from harness.places.requests import Measure, Question
from harness.records import Trial
from harness.scenario.schema import Scenario
from harness.store.archive import pack
from harness.store.layout import RunLayout
from harness.store.reader import marked
from harness.trial.reference import Reference
from harness.tune import loop
from harness.tune.search_records import SearchContext
from tests.harness.places.in_memory_cluster import PROOF, InMemoryCluster
from tests.harness.tune.landscape import NoStudy, latency_ms, plan, resolved, scenario, trial_of

NOISE = 0.04
"""Standard deviation of a launch."""
LAUNCH_S = 10.0
SPACE = [
    {
        "engine": "onnxruntime",
        "workers": [1, 2, 4],
        "batch_size": [1, 2, 4, 8],
        "max_batch_delay_ms": [0, 5],
        "threads": [1, 2],
    }
]
"""48 candidates, all of them feasible."""
ODD = "m3"
"""The machine whose factor a law changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """How machine ODD differs: a factor, one more for each candidate (standard deviation `own_frac` on every machine),
    and whether the factor comes only after half of the trials."""

    name: str
    factor: float
    own_frac: float = 0.0
    comes_late: bool = False


LAWS = (
    Law(name="0 %", factor=1.0),
    Law(name="3 %", factor=1.03),
    Law(name="10 %", factor=1.10),
    Law(name="25 %", factor=1.25),
    Law(name="10 %, and 5 % candidate by candidate", factor=1.10, own_frac=0.05),
    Law(name="10 % from the middle of the search on", factor=1.10, comes_late=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one search: machines set aside, whether the odd one ranks, by how much the chosen candidate is
    worse than the best, and the launches for trials and calibrations."""

    set_aside: tuple[str, ...]
    is_odd_ranked: bool
    loss_frac: float
    trials: int
    calibrations: int


class ProgrammedCluster(InMemoryCluster):
    """Machines m0, m1 ... that measure by a formula; when trials of the search phase begin and end."""

    def __init__(self, folder: Path, value: Callable[[str, Measure], float], of: Scenario, count: int) -> None:
        machines = {f"n{k}": Machine(machine_id=f"m{k}", facts={"cores": 8, "memory_mib": 1024}) for k in range(count)}
        super().__init__(folder, machines)
        self._value, self._of = value, of
        self._nothing = RunLayout(folder)
        self.begun_s: list[float] = []
        self.ended_s: list[float] = []

    def _measured(self, node: str, measure: Measure) -> tuple[float, bytes | Exception]:
        machine = self.machines[node]
        trial = trial_of(measure.candidate, measure.number, self._of, self._value(machine.machine_id, measure))
        trial = replace(
            trial,
            trial_id=f"{measure.prefix}{trial.trial_id}",
            machine=machine.machine_id,
            machine_class=machine.machine_class,
        )
        if not measure.prefix and not measure.repetition:
            self.begun_s.append(self.now_s)
            self.ended_s.append(self.now_s + LAUNCH_S)
        return LAUNCH_S, pack(self._nothing, trial, measure.token)


def run(law: Law, seed: int, folder: Path, *, calibrates: bool, finalists: int, count: int = 4) -> Outcome:
    """One search over all 48 candidates."""
    rng = random.Random(json.dumps([law.name, seed]))
    own: dict[tuple[str, str], float] = {}
    done: list[Trial] = []

    def value(machine: str, measure: Measure) -> float:
        is_off = machine == ODD and (not law.comes_late or len(done) >= 24)
        mine = own.setdefault((machine, measure.candidate.candidate_id), rng.gauss(0, law.own_frac))
        return (law.factor if is_off else 1.0) * math.exp(mine + rng.gauss(0, NOISE))

    confirm = {"finalists": finalists, "repetitions": 3}
    of = scenario({"sampler": "grid", "trials": 48, "seed": seed, "max_minutes": 1e5, "confirm": confirm}, space=SPACE)
    machines: list[tuple[MachineOfRun, ...]] = [()]
    launches: list[object] = []
    cluster = ProgrammedCluster(folder, value, of, count)
    places = places_of(cluster, of, folder, machines, launches)
    with ExitStack() as patched:
        patched.enter_context(patch.object(loop, "StudyRecord", NoStudy))
        if not calibrates:
            patched.enter_context(patch.object(Calibrator, "_open_due", lambda self: None))
        places.admit()
        context = SearchContext(
            scenario=of, plan=plan(of), study_path=folder, places=places, record_trial=done.append, clock=FakeClock()
        )
        loop.search(context)
    unranked = {each.machine_id: each.why for each in machines[-1] if each.ranked != "ranked"}
    chosen = decide([marked(trial, unranked) for trial in done], goals_of(of)).chosen
    best = min(latency_ms(candidate) for candidate in plan(of).candidates)
    return Outcome(
        set_aside=tuple(each.machine_id for each in machines[-1] if each.ranked == "set_aside"),
        is_odd_ranked=ODD not in unranked,
        loss_frac=latency_ms(chosen.candidate) / best - 1,
        trials=len(done),
        calibrations=len(launches),
    )


def places_of(
    cluster: ProgrammedCluster,
    of: Scenario,
    folder: Path,
    machines: list[tuple[MachineOfRun, ...]],
    launches: list[object],
) -> FarPlaces:
    """The places of a search on that cluster; `machines` and `launches` get what is published and kept."""
    terms = CalibrationTerms(
        candidate=plan(of).blocks[0].default,
        metric="latency_p50_ms",
        planned=of.search.trials,
        keep=launches.append,
        publish=machines.append,
        note=lambda line: None,
    )
    asked = Asked(
        question=Question.of(resolved(of)),
        proof=PROOF,
        machine_class=next(iter(cluster.machines.values())).machine_class,
        reference=Reference(answers={}, source="none"),
        left_s=lambda: math.inf,
        calibration=terms,
    )
    return FarPlaces(cluster, asked, RunLayout(folder), most=99, note=lambda line: None, now=lambda: cluster.now_s)
