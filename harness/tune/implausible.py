"""What a failure says about candidates that were not launched yet."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import Candidate, Trial

LAUNCHES_TO_GIVE_UP = 2
"""Different candidates of one group that must fail to start, with none that ran, before the rest is skipped."""

_START_FAILURES = ("launch_failed", "timed_out", "crashed", "infeasible")


def implausible(candidate: Candidate, trials: Sequence[Trial]) -> str | None:
    """Why launching `candidate` would most likely fail as an earlier trial did; None when nothing speaks against it.

    Two rules. Memory is monotone: what ran out of it also does with as many workers, as large a batch and no more
    shards, all else that costs memory equal. A group (engine, its environment, dtype, device, degree, options) that
    failed to start LAUNCHES_TO_GIVE_UP times and never ran is broken here.
    """
    launched = [trial for trial in trials if trial.outcome != "skipped"]
    for trial in launched:
        if trial.outcome == "out_of_memory" and _needs_at_least(candidate, trial.candidate):
            small = trial.candidate
            return (
                f"trial {trial.trial_id} ran out of memory with workers={small.workers} "
                f"batch_size={small.batch_size}; this needs at least as much"
            )
    group = [trial for trial in launched if _group(trial.candidate) == _group(candidate)]
    failed = [trial for trial in group if trial.outcome in _START_FAILURES]
    if len(failed) == len(group) and len(failed) >= LAUNCHES_TO_GIVE_UP:
        last = failed[-1]
        return (
            f"{len(failed)} of {len(group)} trials of {candidate.engine} {candidate.dtype} failed "
            f"(last: {last.trial_id} {last.outcome}: {_first_line(last.reason)})"
        )
    return None


def _needs_at_least(candidate: Candidate, failed: Candidate) -> bool:
    return (
        _group(candidate)[:3] == _group(failed)[:3]
        and _group(candidate)[4:] == _group(failed)[4:]
        and candidate.tensor_parallel_degree <= failed.tensor_parallel_degree
        and candidate.workers >= failed.workers
        and candidate.batch_size >= failed.batch_size
    )


def _group(candidate: Candidate) -> tuple[object, ...]:
    return (
        candidate.engine,
        candidate.dtype,
        candidate.device,
        candidate.tensor_parallel_degree,
        candidate.rolling_batch,
        candidate.python,
        *sorted((name, repr(value)) for name, value in candidate.options.items()),
    )


def _first_line(reason: str) -> str:
    return reason.strip().splitlines()[0] if reason.strip() else "no reason given"
