"""Candidate <-> Optuna parameters, in a space that is conditional on the block.

`block` is a categorical; the axes of a block are parameters named '<block label>.<axis>', present only with their
block, so a sampler never sees a value that the engine would not take. Axes with one value are no parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from harness.records import Candidate, OptionValue
from harness.tune.space import BlockPlan, SpacePlan

BLOCK = "block"


class Encoding:
    """The two-way table between candidates and parameters of one plan."""

    def __init__(self, plan: SpacePlan) -> None:
        self._blocks = {block.label: block for block in plan.blocks}
        self._by_index = {block.block: block for block in plan.blocks}
        self._known = {candidate.candidate_id: candidate for candidate in plan.candidates}

    def knows(self, candidate: Candidate) -> bool:
        """Whether the candidate is one of the plan."""
        return candidate.candidate_id in self._known

    def params(self, candidate: Candidate) -> dict[str, OptionValue | None]:
        """Parameter name -> value of a candidate of the plan."""
        block = self._by_index[self._known[candidate.candidate_id].block]
        axes = candidate.axes()
        return {BLOCK: block.label, **{f"{block.label}.{name}": axes[name] for name in _varying(block)}}

    def suggest(self, trial: optuna.Trial) -> Candidate:
        """The candidate that Optuna's sampler (or an enqueued trial) means."""
        block = self._blocks[trial.suggest_categorical(BLOCK, list(self._blocks))]
        chosen: dict[str, Any] = {
            name: trial.suggest_categorical(f"{block.label}.{name}", list(values))
            for name, values in _varying(block).items()
        }
        return self.candidate(block, chosen)

    def candidate(self, block: BlockPlan, chosen: Mapping[str, OptionValue | None]) -> Candidate:
        """The candidate of `block` with the chosen values; axes with one value take it."""
        for each in block.candidates:
            axes = each.axes()
            if all(_same(axes[name], value) for name, value in chosen.items()):
                return self._known[each.candidate_id]
        raise AssertionError(f"{chosen} is no candidate of {block.label}")


def _varying(block: BlockPlan) -> dict[str, tuple[OptionValue | None, ...]]:
    return {name: values for name, values in block.axes.items() if len(values) > 1}


def _same(left: OptionValue | None, right: OptionValue | None) -> bool:
    return left == right and isinstance(left, bool) == isinstance(right, bool)
