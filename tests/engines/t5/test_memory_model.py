"""Packing a folder takes little more memory than the packed model: a checkpoint tensor is read a piece at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy

MIB = 1 << 20

_LOAD = """
import resource, sys
import engines.t5 as t5
from engines.t5 import engine, native
native.library()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = t5.load(sys.argv[1], dtype=sys.argv[2], threads=1, max_slots=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, model.weight_bytes)
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A model that is almost only vocabulary: table and head of 58.6 MiB each in fp32."""
    member = ck.Member(
        "wide", "T5", {"vocab_size": 60_000, "d_model": 256, "tie_word_embeddings": False}, own_head=True
    )
    return ck.save(ck.build(member), tmp_path_factory.mktemp("wide"), member)


@pytest.mark.parametrize(("dtype", "in_place_mib"), [("fp32", 58), ("bf16", 0), ("int8", 0), ("int4", 0)])
def test_the_peak_is_the_packed_model_and_a_few_pieces(wide, dtype, in_place_mib):
    """The fp32 table stays in the file; everything else is packed, beside at most 24 MiB of pieces and work space."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(wide), dtype], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    peak_kib, weight_bytes = map(int, done.stdout.split())
    assert peak_kib * 1024 <= weight_bytes - in_place_mib * MIB + 24 * MIB
