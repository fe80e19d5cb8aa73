"""Answers to the quality prompts from two launches, compared by the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.store.layout import RunLayout
from harness.store.reader import read_outputs

QUALITY_PREFIX = "q:"
"""How a run's outputs name the answers to the quality prompts; the rest are answers under load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Prompt id -> answer, before and now."""

    before: Mapping[str, str]
    now: Mapping[str, str]

    @property
    def differing(self) -> tuple[str, ...]:
        """Prompts whose answers are not equal, white space at the ends aside; a missing answer differs."""
        ids = {**self.before, **self.now}
        return tuple(key for key in ids if _clean(self.before.get(key)) != _clean(self.now.get(key)))


def answers_of(root: Path, trial_id: str) -> dict[str, str]:
    """The stored quality answers of a trial; empty when none are stored."""
    if not RunLayout(root).outputs(trial_id).is_file():
        return {}
    found = read_outputs(root, trial_id)
    return {key.removeprefix(QUALITY_PREFIX): text for key, text in found.items() if key.startswith(QUALITY_PREFIX)}


def _clean(text: str | None) -> str | None:
    return None if text is None else text.strip()
