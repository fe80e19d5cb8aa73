"""Implausible candidates: skipped unlaunched, because a failure of another candidate implies theirs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from engines.setting import AXES, Axis
from harness.records import Candidate, Trial

LAUNCHES_TO_GIVE_UP = 2
"""Different candidates of one group that must fail to start, with none that ran, before the rest is skipped."""

ALIKE_FRAC = 0.02
"""Machines whose memory differs by no more are as large: by so much launches of one candidate differ too."""

ONE_MACHINE: Mapping[str, float] = MappingProxyType({})
"""The memories of machines that differ, where all trials run on one."""

_START_FAILURES = ("launch_failed", "timed_out", "crashed", "infeasible")
FAILURES = (*_START_FAILURES, "out_of_memory")
"""Outcomes of a candidate that did not run."""


def implausible(
    candidate: Candidate,
    trials: Sequence[Trial],
    memory_mib: float = math.inf,
    memories_mib: Mapping[str, float] = ONE_MACHINE,
) -> str | None:
    """Why launching `candidate` would most likely fail as an earlier trial did; None when there is no reason against
    it.

    Two rules. Memory is monotone: what ran out of it also does with as many workers, as large a batch and no more
    shards, all else that costs memory equal. A group (engine, its environment, dtype, device, degree, options) that
    failed to start LAUNCHES_TO_GIVE_UP times and never ran is broken here. The rest as in `ran_out_of_memory`.
    """
    launched = [trial for trial in trials if trial.outcome != "skipped"]
    for trial in ran_out_of_memory(launched, memory_mib, memories_mib):
        if _needs_at_least(candidate, trial.candidate):
            small = trial.candidate
            return (
                f"trial {trial.trial_id} ran out of memory with workers={small.workers} "
                f"batch_size={small.batch_size}; this needs at least as much"
            )
    group = [trial for trial in launched if group_of(trial.candidate) == group_of(candidate)]
    failed = [trial for trial in group if trial.outcome in _START_FAILURES]
    if len(failed) == len(group) and len(failed) >= LAUNCHES_TO_GIVE_UP:
        last = failed[-1]
        return (
            f"{len(failed)} of {len(group)} trials of {candidate.engine} {candidate.dtype} failed "
            f"(last: {last.trial_id} {last.outcome}: {_first_line(last.reason)})"
        )
    return None


def ran_out_of_memory(trials: Iterable[Trial], memory_mib: float, memories_mib: Mapping[str, float]) -> list[Trial]:
    """The launches that ran out of memory on a machine with `memory_mib`, the most that any has: what a smaller one
    could not hold may fit there. `memories_mib` are those of machines that may differ, by their ids."""
    least_mib = memory_mib * (1 - ALIKE_FRAC) if memories_mib else 0.0
    failed = [trial for trial in trials if trial.outcome == "out_of_memory"]
    return [trial for trial in failed if memories_mib.get(trial.machine, 0.0) >= least_mib]


def _needs_at_least(candidate: Candidate, failed: Candidate) -> bool:
    """Every axis is equal, or differs towards more memory, or in what costs none."""
    if _outside(candidate) != _outside(failed):
        return False
    return all(_takes_at_least(axis, getattr(candidate, axis.name), getattr(failed, axis.name)) for axis in AXES)


def _takes_at_least(axis: Axis, value: Any, failed: Any) -> bool:
    if axis.memory == "more":
        return bool(value >= failed)
    if axis.memory == "less":
        return bool(value <= failed)
    return axis.memory == "none" or value == failed


def group_of(candidate: Candidate) -> tuple[object, ...]:
    """What decides whether a start can succeed at all: more workers or a larger batch only take more memory."""
    decisive = (getattr(candidate, axis.name) for axis in AXES if axis.memory in ("unknown", "less"))
    return (*_outside(candidate), *decisive)


def _outside(candidate: Candidate) -> tuple[object, ...]:
    """What is no axis: engine, environment, options."""
    options = sorted((name, repr(value)) for name, value in candidate.options.items())
    return (candidate.engine, candidate.python, *options)


def _first_line(reason: str) -> str:
    return reason.strip().splitlines()[0] if reason.strip() else "no reason given"
