"""Space blocks of a scenario that name several engines, expanded into one block per engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def one_block_per_engine(blocks: Any) -> Any:
    """The blocks of a scenario with `engine: [a, b]` written out as two blocks. Lists become tuples; anything that is
    no list of blocks is left for the schema to refuse."""
    if not isinstance(blocks, list):
        return blocks
    return tuple(
        blocks[index] if place is None else {**blocks[index], "engine": blocks[index]["engine"][place]}
        for index, place in written_places(blocks)
    )


def written_places(blocks: Sequence[Any]) -> list[tuple[int, int | None]]:
    """For each block of `one_block_per_engine`: its index in the file, and where in the list its engine is named (None:
    the file names one engine)."""
    return [(index, place) for index, block in enumerate(blocks) for place in _places(block)]


def _places(block: Any) -> Sequence[int | None]:
    engines = block.get("engine") if isinstance(block, dict) else None
    if not isinstance(engines, list) or not engines or len({repr(name) for name in engines}) < len(engines):
        return (None,)
    return range(len(engines))
