"""Blocks of a trace: read, checked against their lengths, and what a cache without bound would know of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.load.schedule.trace import read_trace
from harness.load.schedule.trace_blocks import unlimited_hit_frac
from harness.load.schedule.trace_facts import trace_facts
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
