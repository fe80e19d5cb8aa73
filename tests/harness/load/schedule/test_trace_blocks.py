"""Blocks of a trace: read, checked against their lengths, and what a cache without bound would know of them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.load.schedule.trace import read_trace
from harness.load.schedule.trace_blocks import lru_hit_frac, unlimited_hit_frac
from harness.load.schedule.trace_facts import trace_facts
from harness.records import PrefixCache
from harness.scenario.load_kinds import TraceLoad

ROWS = (
    {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 10, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 20, "input_length": 512, "output_length": 5, "hash_ids": [3]},
    {"timestamp": 30, "input_length": 1000, "output_length": 5, "hash_ids": [3, 1]},
)
HITS = 1024 + 512
"""Block 1 behind block 3 begins nothing that a prefix cache knows, but stood in an earlier request: Mooncake's ids name
a block with all that is before it."""


def _trace(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_cache_without_bound_has_the_leading_blocks_that_came_before(tmp_path: Path) -> None:
    blocks = [((0, 1), 1000), ((0, 1, 2), 1100), ((3,), 512), ((3, 4), 1000)]
    assert unlimited_hit_frac(blocks, 512) == HITS / 3612
    assert unlimited_hit_frac([], 512) == 0
    assert unlimited_hit_frac([((0,), 10), ((0,), 10)], 512) == 0.5
    load = TraceLoad(kind="trace", path="trace.jsonl")
    facts = trace_facts(load, _trace(tmp_path, *ROWS[:3], ROWS[3] | {"hash_ids": [3, 4]}), 60)
    assert f"5 different ones of 512 tokens; a prefix cache without bound would have {HITS / 3612:.1%}" in "".join(
        facts.lines()
    )
    assert facts.as_dict()["unlimited_hit_frac"] == HITS / 3612
    assert "hash_ids" not in facts.trace.unused


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"hash_ids": [1, 2, 3]}, "expected 2 hash_ids for 1000 tokens in blocks of 512, got 3; set .*block_tokens"),
        ({"hash_ids": ["a"]}, r"expected hash_ids as a list of whole numbers, one for each block, got \['a'\]"),
        ({"hash_ids": 7}, "expected hash_ids as a list of whole numbers"),
        ({"input_length": None}, "expected an input length beside hash_ids, got none; add it"),
    ],
)
def test_blocks_that_are_not_those_of_their_input_are_refused_with_the_line(
    tmp_path: Path, row: dict[str, object], problem: str
) -> None:
    with pytest.raises(ScenarioError, match=rf"trace\.jsonl:2: {problem}"):
        read_trace(_trace(tmp_path, ROWS[0], ROWS[0] | {"timestamp": 5} | row))


def test_blocks_of_another_size_are_read_where_it_is_named(tmp_path: Path) -> None:
    path = _trace(tmp_path, ROWS[0] | {"input_length": 100, "hash_ids": [5, 6, 7, 8]})
    assert read_trace(path, block_tokens=32).rows[0].blocks == (5, 6, 7, 8)


Row = tuple[Sequence[int], int, int]


def _by_tokens(rows: Sequence[Row], trace_block: int, size: int, most: int) -> float:
    """The same from every token: what is kept are whole beginnings, in the order of their last use."""
    held: list[int] = []
    names: dict[tuple[object, ...], int] = {}
    hits = total = 0
    for number, (ids, length, written) in enumerate(rows):
        inputs = [(tuple(ids[: at // trace_block + 1]) if ids else number, at) for at in range(length)]
        tokens = [*inputs, *(("written", number, at) for at in range(written))]
        ends = range(size, len(tokens) + 1, size)
        begins = [names.setdefault(tuple(tokens[:end]), len(names)) for end in ends]
        for begin, end in zip(begins, ends, strict=True):
            if end >= length or begin not in held:
                break
            hits += size
        total += length
        for begin in reversed(begins):
            held = [each for each in held if each != begin] + [begin]
        held = held[max(0, len(held) - most) :]
    return hits / total


@pytest.mark.parametrize("seed", range(20))
def test_a_bounded_cache_has_what_a_model_of_every_token_has(seed: int) -> None:
    rng = random.Random(seed)
    trace_block, size = rng.choice([(8, 4), (8, 3), (4, 8), (5, 5), (6, 1)])
    rows: list[Row] = []
    for number in range(25):
        before = list(rng.choice(rows)[0])[:4] if rows and rng.random() < 0.8 else []
        ids = before[: rng.randint(0, len(before))] + [100 * number + part for part in range(rng.randint(0, 3))]
        length = max(1, len(ids) * trace_block - rng.randint(0, trace_block - 1)) if ids else rng.randint(1, 20)
        rows.append((ids, length, rng.randint(0, 12)))
    for most in (1, 3, 10, 30, 10_000):
        found = lru_hit_frac(rows, trace_block, PrefixCache(tokens=most * size + size - 1, block_tokens=size))
        assert found == pytest.approx(_by_tokens(rows, trace_block, size, most))


def test_a_bounded_cache_has_less_and_one_without_bound_all_whole_blocks() -> None:
    rows = [((0, 1), 1000, 0), ((2,), 512, 0), ((0, 1), 1000, 0)]
    assert lru_hit_frac(rows, 512, PrefixCache(tokens=10_000, block_tokens=16)) == 992 / 2512
    assert lru_hit_frac(rows, 512, PrefixCache(tokens=1024, block_tokens=16)) == 512 / 2512
    assert lru_hit_frac(rows, 512, PrefixCache(tokens=512, block_tokens=16)) == 0
    twice = [((0,), 512, 1), ((0,), 512, 1)]
    assert lru_hit_frac(twice, 512, PrefixCache(tokens=10_000, block_tokens=512)) == 0, "the last token is computed"
    assert lru_hit_frac(twice, 512, PrefixCache(tokens=10_000, block_tokens=256)) == 256 / 1024
    assert lru_hit_frac([], 512, PrefixCache(tokens=512, block_tokens=16)) == 0
