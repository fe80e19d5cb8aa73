"""The order in which a landscape is recorded: two passes over all candidates, each shuffled by itself, and anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import Candidate

ANCHOR = 0
PASSES = (1, 2)
ANCHOR_EVERY = 10
"""Every tenth trial is the anchor, the first one and the last one too: what changes there is the machine's doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Trial `number` of a recording, from 1; `in_pass` is 1 or 2, ANCHOR for the anchor's."""

    number: int
    in_pass: int
    candidate: Candidate


def order_of(candidates: Sequence[Candidate], seed: int) -> tuple[Planned, ...]:
    """All trials of a recording, in order; the first candidate is the anchor. Equal for equal arguments."""
    launches = [
        (in_pass, candidates[place])
        for in_pass in PASSES
        for place in np.random.default_rng([seed, in_pass]).permutation(len(candidates))
    ]
    between = ANCHOR_EVERY - 1
    trials: list[tuple[int, Candidate]] = []
    for first in range(0, len(launches), between):
        trials += [(ANCHOR, candidates[0]), *launches[first : first + between]]
    trials.append((ANCHOR, candidates[0]))
    return tuple(
        Planned(number=number, in_pass=in_pass, candidate=candidate)
        for number, (in_pass, candidate) in enumerate(trials, 1)
    )
