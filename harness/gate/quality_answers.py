"""Answers to the quality prompts from two launches, compared by the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.store.answers import read_answer_rows, row_digest
from harness.store.layout import RunLayout

QUALITY_PREFIX = "q:"
"""How a run's outputs name the answers to the quality prompts; the rest are answers under load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Prompt id -> digest of the answer, white space at its ends aside, before and now."""

    before: Mapping[str, str]
    now: Mapping[str, str]

    @property
    def differing(self) -> tuple[str, ...]:
        """Prompts whose answers are not equal; a missing answer differs."""
        ids = {**self.before, **self.now}
        return tuple(key for key in ids if self.before.get(key) != self.now.get(key))


def answers_of(root: Path, trial_id: str) -> dict[str, str]:
    """The digests of a trial's stored quality answers; empty when none are stored."""
    return {row["id"].removeprefix(QUALITY_PREFIX): row_digest(row) for row in quality_rows(root, trial_id)}


def quality_rows(root: Path, trial_id: str) -> list[dict[str, Any]]:
    """A trial's stored quality answers as they stand in its file."""
    if not RunLayout(root).outputs(trial_id).is_file():
        return []
    return [row for row in read_answer_rows(root, trial_id) if row["id"].startswith(QUALITY_PREFIX)]
