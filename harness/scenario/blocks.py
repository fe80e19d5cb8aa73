"""Space blocks of a scenario as they are written, expanded: several engines in one block, and presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines.presets import presets_of


def one_block_per_engine(blocks: Any) -> Any:
    """The blocks of a scenario with `engine: [a, b]` written out as two blocks, and each `preset` as its own blocks,
    over which what the scenario names wins. Lists become tuples; anything that is no list of blocks, and a preset that
    its engine does not have, is left for the schema to refuse."""
    if not isinstance(blocks, list):
        return blocks
    return tuple(block for index, place in _written(blocks) for block in _of_preset(_named(blocks[index], place)))


def written_places(blocks: Sequence[Any]) -> list[tuple[int, int | None]]:
    """For each block of `one_block_per_engine`: its index in the file, and where in the list its engine is named (None:
    the file names one engine)."""
    return [place for place in _written(blocks) for _ in _of_preset(_named(blocks[place[0]], place[1]))]


def _written(blocks: Sequence[Any]) -> list[tuple[int, int | None]]:
    return [(index, place) for index, block in enumerate(blocks) for place in _places(block)]


def _named(block: Any, place: int | None) -> Any:
    """The block with one of its engines."""
    return block if place is None else {**block, "engine": block["engine"][place]}


def _places(block: Any) -> Sequence[int | None]:
    engines = block.get("engine") if isinstance(block, dict) else None
    if not isinstance(engines, list) or not engines or len({repr(name) for name in engines}) < len(engines):
        return (None,)
    return range(len(engines))


def _of_preset(block: Any) -> Sequence[Any]:
    name = block.get("preset") if isinstance(block, dict) else None
    preset = presets_of(block["engine"]).get(name) if isinstance(name, str) and "engine" in block else None
    if preset is None:
        return (block,)
    own = {key: value for key, value in block.items() if key not in ("preset", "options")}
    return [_merged(each, own, block.get("options", {})) for each in preset.blocks]


def _merged(preset: Mapping[str, Any], own: Mapping[str, Any], options: Any) -> dict[str, Any]:
    """The preset's block under the scenario's own keys; options that are no mapping are the schema's to refuse."""
    merged = {**preset.get("options", {}), **options} if isinstance(options, dict) else options
    return {**preset, **own, "options": merged}
