"""The axes of a space as other tools take them: words without an order, numbers in theirs, one point a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import Candidate
from harness.space.candidates import BlockPlan, SpacePlan

BLOCK = "block"
Value = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What varies in a space: axis -> its values, of `words` and of `numbers`. Of several blocks the block is a word,
    and an axis has the values of all of them; a block that lacks one takes its own nearest."""

    words: Mapping[str, Sequence[str]]
    numbers: Mapping[str, Sequence[int | float]]
    blocks: Mapping[str, BlockPlan]
    candidates: Mapping[tuple[tuple[str, str], ...], Candidate]

    @classmethod
    def of(cls, plan: SpacePlan) -> Axes:
        """Those of a space, in its order."""
        values: dict[str, list[Any]] = {}
        for block in plan.blocks:
            for name, own in block.axes.items():
                if len(own) > 1:
                    known = values.setdefault(name, [])
                    known += [each for each in own if each not in known and each is not None]
        numbers = {name: sorted(every) for name, every in values.items() if all(map(_is_number, every))}
        words = {name: [str(each) for each in every] for name, every in values.items() if name not in numbers}
        blocks = {str(block.block): block for block in plan.blocks}
        return cls(
            words={BLOCK: list(blocks), **words} if len(blocks) > 1 else words,
            numbers=numbers,
            blocks=blocks,
            candidates={_key(each.axes()): each for each in plan.candidates},
        )

    @property
    def values(self) -> dict[str, Sequence[Value]]:
        """Every axis and its values, words first."""
        return {**self.words, **self.numbers}

    def candidate(self, chosen: Mapping[str, Value]) -> Candidate:
        """The candidate of a choice on every axis."""
        block = self.blocks[str(chosen[BLOCK])] if BLOCK in chosen else next(iter(self.blocks.values()))
        point: dict[str, Any] = block.default.axes()
        for name, own in block.axes.items():
            if name in chosen:
                point[name] = _nearest(own, chosen[name])
        return self.candidates[_key(point)]

    def of_candidate(self, candidate: Candidate) -> dict[str, Value]:
        """A choice on every axis that gives `candidate`."""
        its: dict[str, Any] = {BLOCK: str(candidate.block), **candidate.axes()}
        chosen: dict[str, Value] = {}
        for name, values in self.values.items():
            own: Any = str(its.get(name)) if name in self.words else its.get(name)
            chosen[name] = own if own in values else values[0]
        return chosen


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nearest(values: Sequence[Any], chosen: Value) -> Any:
    same = [each for each in values if str(each) == str(chosen)]
    if same or isinstance(chosen, str) or not all(map(_is_number, values)):
        return (same or values)[0]
    return min(values, key=lambda each: abs(each - chosen))


def _key(axes: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in axes.items()))
