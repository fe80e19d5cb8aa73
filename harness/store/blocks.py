"""The block of the finalists: their repetitions are compared on one machine, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harness.records import Trial


def without_void_block(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trials, those of a block marked as not ranked whose machine was lost or set aside before its end: the newest
    repetition's machine has the block that counts."""
    trials = tuple(trials)
    newest = next((trial.machine for trial in reversed(trials) if trial.repetition and trial.has_numbers), "")
    return tuple(_void(trial, newest) if _is_of_another_block(trial, newest) else trial for trial in trials)


def _is_of_another_block(trial: Trial, machine: str) -> bool:
    return bool(trial.repetition and machine and trial.machine != machine and not trial.unranked)


def _void(trial: Trial, machine: str) -> Trial:
    return replace(trial, unranked=f"the finalists were begun again on machine {machine}, a block is of one machine")
