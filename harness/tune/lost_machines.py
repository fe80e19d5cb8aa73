"""Candidates to begin again: their machine was lost during their trial, once not their fault, or set aside since."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records import Candidate, Trial
from harness.tune.finalists import first_measurements


def losses(trials: Iterable[Trial], candidate: Candidate) -> tuple[Trial, ...]:
    """The trials of `candidate` that were lost with their machine."""
    name = candidate.candidate_id
    return tuple(trial for trial in trials if trial.outcome == "machine_lost" and trial.candidate.candidate_id == name)


def lost_once(trials: Sequence[Trial], pending: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Candidates to begin again, in the order they were lost: no other trial of them that counts ended or is under
    way."""
    known = {trial.candidate.candidate_id for trial in first_measurements(trials)}
    known |= {candidate.candidate_id for candidate in pending}
    void = [trial for trial in trials if trial.outcome == "machine_lost" or trial.unranked]
    lost = {trial.candidate.candidate_id: trial.candidate for trial in void}
    return tuple(candidate for name, candidate in lost.items() if name not in known)
