"""The record of a recommendation: the chosen candidate with its evidence, and why each other one lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.records import Candidate, Trial

LossKind = Literal["failed", "broken", "unranked", "unmeasured", "tie", "off_knee", "dominated", "worse", "ended_early"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Why a candidate was not chosen: the kind decides, `why` is for people.

    'failed' (no usable measurement), 'broken' (a constraint), 'unranked' (its machine differs), 'unmeasured' (no value
    for an objective), 'tie' (separated by its cost alone), 'off_knee' (on the Pareto front, further from the ideal),
    'dominated', 'worse', 'ended_early' (it lost its race).
    """

    trial_id: str
    candidate: Candidate
    kind: LossKind
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The choice, its evidence, and why each other candidate lost. `gain` compares it with the incumbent; '' where the
    scenario marks none. `launch_spread_frac` is the standard deviation of the first objective's logarithm over its
    launches, `runner_up_chance` the chance that the runner-up is truly better; None where launches are too few."""

    run_dir: Path
    trial: Trial
    runner_up: Trial | None
    is_tie: bool
    margin: str
    losses: tuple[Loss, ...]
    gain: str = ""
    launch_spread_frac: float | None = None
    runner_up_chance: float | None = None
