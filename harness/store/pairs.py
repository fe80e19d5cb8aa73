"""The stored list of launches that were measured side by side for a gate (pairs.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EnvironmentFault

PAIRS_JSON = "pairs.json"
"""In the candidate's run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """`baseline`: name of the other run folder. `trial_ids`: (baseline's, candidate's), in the order of measuring.
    `share`: which part of the error levels this look at the data may spend; the plan's parts sum to 1."""

    baseline: str
    share: float
    trial_ids: tuple[tuple[str, str], ...]

    def as_text(self) -> str:
        """The file."""
        return json.dumps({"baseline": self.baseline, "share": self.share, "pairs": self.trial_ids}, indent=1) + "\n"


def read_pairs(candidate_root: Path, baseline_root: Path) -> Pairs | None:
    """The pairs of the candidate's run, when it was measured side by side with that baseline. Raises EnvironmentFault
    on a damaged file."""
    path = candidate_root / PAIRS_JSON
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        pairs = Pairs(
            baseline=str(stored["baseline"]),
            share=float(stored["share"]),
            trial_ids=tuple((str(one), str(other)) for one, other in stored["pairs"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentFault(
            f"{path}: damaged ({error!r}); remove it, and the launches are compared unpaired"
        ) from error
    return pairs if pairs.baseline == baseline_root.resolve().name else None
