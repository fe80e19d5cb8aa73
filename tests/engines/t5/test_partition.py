"""Partitions: same tokens as the folder they came from, refused when wrong or damaged, made in little memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from engines.errors import ModelInvalid, SpecInvalid
from engines.t5.partition import MANIFEST, partition
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    ("name", "dtype", "degree"),
    [("t5-1.0", "fp32", 2), ("mt5", "int8", 4), ("umt5", "w8a8", 1), ("odd", "bf16", 1), ("byt5", "int4", 2)],
)
def test_a_partition_generates_what_its_source_generates(name, dtype, degree, family, load, tmp_path):
    model, folder = family(name)
    prompts = ck.prompts(6, model.config.vocab_size, seed=31)
    out = tmp_path / "shards"
    written = partition(folder, dtype, degree, out)
    options = {"dtype": dtype, "tensor_parallel_degree": degree}
    direct, mapped = load(folder, **options), load(out, **options)
    assert mapped.generate(prompts, max_new_tokens=12) == direct.generate(prompts, max_new_tokens=12)
    assert len(written.shards) == degree
    assert written.size_bytes == sum(path.stat().st_size for path in written.shards)


@pytest.fixture
def shards(family, tmp_path):
    return partition(family("flan")[1], "int8", 1, tmp_path / "shards").folder


def test_one_flipped_bit_is_refused_and_the_tensor_named(shards, load):
    path = shards / "rank-0.t5k"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(ModelInvalid, match=r"rank-0\.t5k: .*digest"):
        load(shards, dtype="int8")


def test_a_short_shard_is_refused(shards, load):
    path = shards / "rank-0.t5k"
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(ModelInvalid, match=r"expected \d+ bytes, got"):
        load(shards, dtype="int8")


def test_a_missing_shard_is_refused(shards, load):
    (shards / "rank-0.t5k").unlink()
    with pytest.raises(ModelInvalid, match="missing"):
        load(shards, dtype="int8")


@pytest.mark.parametrize("options", [{"dtype": "fp32"}, {"dtype": "int8", "tensor_parallel_degree": 3}])
def test_a_partition_for_something_else_is_refused(shards, load, options):
    with pytest.raises(ModelInvalid, match="was made for"):
        load(shards, **options)


def test_a_damaged_manifest_is_refused(shards, load):
    manifest = json.loads((shards / MANIFEST).read_text())
    manifest["shards"][0]["tensors"][3]["shape"] = [1, 2]
    (shards / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelInvalid, match="the manifest has"):
        load(shards, dtype="int8")


def test_a_used_folder_and_a_degree_that_does_not_divide_are_refused(family, tmp_path):
    folder = family("flan")[1]
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(SpecInvalid, match="empty or absent"):
        partition(folder, "int8", 1, tmp_path / "used")
    with pytest.raises(SpecInvalid, match="divisor of 3 heads"):
        partition(folder, "int8", 2, tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["used"]


def test_partitioning_holds_a_tensor_and_not_a_model(tmp_path):
    """Peak resident memory grows by a fraction of the model's size."""
    shape = {"d_model": 256, "d_ff": 1024, "num_layers": 12, "d_kv": 64, "feed_forward_proj": "gated-gelu"}
    member = ck.Member("wide", "T5", {**shape, "tie_word_embeddings": False}, own_head=True)
    folder = ck.save(ck.build(member), tmp_path / "wide", member)
    model_bytes = (folder / "model.safetensors").stat().st_size
    code = (
        "import sys, resource; from pathlib import Path; from engines.t5.partition import partition;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "partition(Path(sys.argv[1]), 'fp32', 2, Path(sys.argv[2]));"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print((after - before) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out")], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 0.4 * model_bytes
