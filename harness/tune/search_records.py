"""Records of a search: its inputs, its progress events and its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.clock import Clock
from harness.cost.spending import Spending
from harness.records import Candidate, Trial
from harness.scenario.schema import Scenario
from harness.space.candidates import SpacePlan
from harness.tune.places import Places
from harness.tune.spreads import Earlier
from harness.tune.unequal_memory import PlanFor

EventKind = Literal["launching", "finished", "skipped", "dropped", "widened", "stopped"]
StopKind = Literal["budget", "exhausted", "converged", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEvent:
    """Something a progress display should show.

    `kind`: 'launching' (candidate, number), 'finished' and 'skipped' (trial), 'dropped', 'widened' and 'stopped'
    (text).
    `measured` counts candidates measured so far; `expected_s` is the likely duration of the trial being launched, 0 if
    unknown.
    """

    kind: EventKind
    measured: int
    spent_s: float
    candidate: Candidate | None = None
    number: int = 0
    trial: Trial | None = None
    text: str = ""
    expected_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchContext:
    """What a search needs. `places` are where its trials run.

    `record_trial` must have the trial on disk when it returns. `done` are the recorded trials of the run being
    resumed; `spending` counts what rented endpoints cost. `spent_before_s` is time of the budget used before the search
    began, the trials of `done` not counted. `is_verified`: the recommended one is launched once more afterwards.
    `first` are candidates to measure before the blocks' defaults. `memory_mib` is the machine's; with `prunes` a
    candidate is skipped whose like failed, or that needs more. `plan_for` gives the plan for a machine with another
    memory; None: the plan stays as it is. `earlier` is what other runs know of launches.
    """

    scenario: Scenario
    plan: SpacePlan
    study_path: Path
    places: Places
    record_trial: Callable[[Trial], None]
    clock: Clock
    on_event: Callable[[SearchEvent], None] = field(default=lambda event: None)
    spending: Spending = field(default_factory=lambda: Spending(None, 0.0))
    done: tuple[Trial, ...] = ()
    spent_before_s: float = 0.0
    is_verified: bool = False
    first: tuple[Candidate, ...] = ()
    memory_mib: float = math.inf
    prunes: bool = True
    plan_for: PlanFor | None = None
    earlier: Earlier = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """All trials of the run, resumed ones first, and why the search stopped."""

    trials: tuple[Trial, ...]
    stop: StopKind
    stop_reason: str
