"""Blocks of which a trace's inputs are made: equal ids are equal tokens, and what a prefix cache would know of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from harness.errors import ScenarioError
from harness.records import PrefixCache

BLOCK_TOKENS = 512
"""Of Mooncake's published traces: in each of their rows ids and input length agree with it."""


def blocks_of(value: Any, name: str, where: str) -> tuple[int, ...]:
    """The ids of one row. Raises ScenarioError."""
    if isinstance(value, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in value):
        return tuple(value)
    raise ScenarioError(f"{where}: expected {name} as a list of whole numbers, one for each block, got {value!r:.80}")


def check_blocks(blocks: Sequence[int], input_length: int | None, block_tokens: int, where: str) -> None:
    """Refuses a row whose blocks are not those of its input. Raises ScenarioError."""
    if not blocks or input_length == 0:
        return
    if input_length is None:
        raise ScenarioError(f"{where}: expected an input length beside hash_ids, got none; add it")
    if (needed := -(-input_length // block_tokens)) != len(blocks):
        raise ScenarioError(
            f"{where}: expected {needed} hash_ids for {input_length} tokens in blocks of {block_tokens}, got "
            f"{len(blocks)}; set workload.load.block_tokens to the size of the trace's blocks"
        )


def unlimited_hit_frac(rows: Iterable[tuple[Sequence[int], int]], block_tokens: int) -> float:
    """The share of all input tokens that a prefix cache which forgets nothing would have had, of (ids, input length) in
    the order in which requests arrive: those of the leading blocks that stood in an earlier request."""
    known: set[int] = set()
    hits = total = 0
    for blocks, length in rows:
        leading = next((place for place, block in enumerate(blocks) if block not in known), len(blocks))
        hits += min(leading * block_tokens, length)
        total += length
        known.update(blocks)
    return hits / total if total else 0.0


def lru_hit_frac(rows: Iterable[tuple[Sequence[int], int, int]], block_tokens: int, cache: PrefixCache) -> float:
    """The share of all input tokens that a cache of this size would have had, of (ids, input length, output length) in
    the order in which requests arrive, one at a time: whole blocks of the cache from the beginning of an input on, but
    for its last token, which a server computes for the next one (vLLM's KVCacheManager.get_computed_blocks). What it
    was asked and wrote takes its room, and the blocks go that were used least recently, of one request the last first,
    as vLLM frees them."""
    size = cache.block_tokens
    most = cache.tokens // size
    held: OrderedDict[tuple[int, int], None] = OrderedDict()
    known: dict[tuple[int, int], int] = {}
    hits = total = 0
    for number, (ids, length, written) in enumerate(rows):
        # A block of the cache is known by all that stands before its end, so by the chain of the trace's blocks.
        chain, node = [], -1
        for each in ids:
            chain.append(node := known.setdefault((node, each), len(known)))
        ends = range(size, length + 1, size) if chain else ()
        keys = [(chain[(end - 1) // block_tokens], end) for end in ends]
        asked = keys[: (length - 1) // size]
        hits += size * next((place for place, key in enumerate(asked) if key not in held), len(asked))
        total += length
        keys += [(-1 - number, end) for end in range((len(keys) + 1) * size, length + written + 1, size)]
        for key in reversed(keys):
            held[key] = None
            held.move_to_end(key)
        while len(held) > most:
            held.popitem(last=False)
    return hits / total if total else 0.0
