"""Ahead-of-time partition: packed shards on disk, hashed, and the mapped, verified way back.

    partition(model_dir, dtype, tensor_parallel_degree, out)

writes `rank-0.t5k`, `rank-1.t5k`, ... and `t5k.json` (what each holds, its digest, the source and the engine's layout
version) beside copies of the model's config and tokenizer files, so that the folder is served like a model folder.
Needs no accelerator and holds one tensor at a time. Loading maps the shards and checks every digest.
"""

from __future__ import annotations

import ctypes as c
import json
import mmap
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import ModelInvalid, SpecInvalid
from engines.t5 import native
from engines.t5.config import T5Config, read_config
from engines.t5.pack import PackedModel, PlannedTensor, offsets_of, plan, resolve_dtype
from engines.t5.panels import Bytes
from engines.t5.weights import Checkpoint

MANIFEST = "t5k.json"
LAYOUT = 1
"""Raise when packed bytes change meaning; a folder of another layout is refused."""

_COPIED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "spiece.model",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSummary:
    """What `partition` wrote: the folder, its shards and their total size."""

    folder: Path
    shards: tuple[Path, ...]
    size_bytes: int


def is_partition(folder: Path) -> bool:
    """Whether a folder holds packed shards."""
    return (folder / MANIFEST).is_file()


def partition(model_dir: Path, dtype: str, tensor_parallel_degree: int, out: Path) -> PartitionSummary:
    """Pack a Hugging Face folder into `out`, which must be empty or absent; nothing half-written stays after an error.

    Raises ModelInvalid for the model, SpecInvalid for the dtype, the degree or a used `out`.
    """
    dtype = resolve_dtype(dtype)
    if out.exists() and any(out.iterdir()):
        raise SpecInvalid(f"{out}: expected an empty or absent folder, it holds files")
    config, checkpoint = read_config(model_dir), Checkpoint(model_dir)
    tensors = plan(config, dtype, tensor_parallel_degree, checkpoint.names())
    building = out.with_name(out.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        shards = [_write_shard(building, rank, tensors, checkpoint) for rank in range(tensor_parallel_degree)]
        manifest = {
            "layout": LAYOUT, "dtype": dtype, "tensor_parallel_degree": tensor_parallel_degree,
            "source": str(model_dir.name), "shards": shards,
        }  # fmt: skip
        (building / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for name in _COPIED:
            if (model_dir / name).is_file():
                shutil.copy2(model_dir / name, building / name)
        if out.exists():
            out.rmdir()
        building.rename(out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return PartitionSummary(
        folder=out,
        shards=tuple(out / shard["file"] for shard in shards),
        size_bytes=sum(shard["size_bytes"] for shard in shards),
    )


def _write_shard(folder: Path, rank: int, tensors: Sequence[PlannedTensor], checkpoint: Checkpoint) -> dict[str, Any]:
    mine = [t for t in tensors if t.rank == rank]
    offsets, total = offsets_of(mine)
    entries, name = [], f"rank-{rank}.t5k"
    with (folder / name).open("wb") as file:
        for tensor, offset in zip(mine, offsets, strict=True):
            data = np.zeros(tensor.size_bytes, dtype=np.uint8)
            tensor.fill(checkpoint, data)
            file.seek(offset)
            data.tofile(file)
            entries.append(_entry(tensor, offset) | {"digest": digest(data)})
            checkpoint.release()
        file.truncate(total)
        file.flush()
        os.fsync(file.fileno())
    return {"file": name, "size_bytes": total, "tensors": entries}


def _entry(tensor: PlannedTensor, offset: int) -> dict[str, Any]:
    return {
        "name": tensor.name, "format": tensor.format, "shape": [tensor.K, tensor.N], "offset": offset,
        "size_bytes": tensor.size_bytes,
    }  # fmt: skip


def digest(data: Bytes) -> str:
    """A 128-bit checksum of the bytes, as hex. It finds damage, not forgery; fast enough to check at every load."""
    out = (c.c_uint64 * 2)()
    native.library().t5k_digest(data.ctypes.data, data.nbytes, out)
    return f"{out[0]:016x}{out[1]:016x}"


def open_partition(folder: Path, config: T5Config, dtype: str, degree: int) -> PackedModel:
    """Map a partition made for exactly this dtype and degree. Raises ModelInvalid in one sentence otherwise."""
    manifest = _read_manifest(folder)
    for key, wanted in (("layout", LAYOUT), ("dtype", resolve_dtype(dtype)), ("tensor_parallel_degree", degree)):
        if manifest.get(key) != wanted:
            raise ModelInvalid(
                f"{folder / MANIFEST}: {key}: this partition was made for {manifest.get(key)!r}, asked for "
                f"{wanted!r}; run `dyno partition` again or load it as what it is"
            )
    tensors = plan(config, dtype, degree, _names_in(manifest))
    buffers: dict[str, Bytes] = {}
    for rank, shard in enumerate(manifest["shards"]):
        mine = [t for t in tensors if t.rank == rank]
        buffers |= _map_shard(folder / shard["file"], shard, mine)
    return PackedModel(tensors, [buffers[t.name] for t in tensors], buffers)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"{folder / MANIFEST}: expected a partition's manifest, got {error}") from error


def _names_in(manifest: dict[str, Any]) -> frozenset[str]:
    """Checkpoint names that lead the plan to the same tensors: which layers own a bias, whether there is a decoder."""
    present = {entry["name"] for shard in manifest["shards"] for entry in shard["tensors"]}
    names = {"shared.weight"}
    for name in present:
        stack, layer, role, _rank = name.split(".")
        if role == "bias":
            names.add(f"{stack}.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight")
    return frozenset(names)


def _map_shard(path: Path, shard: dict[str, Any], tensors: Sequence[PlannedTensor]) -> dict[str, Bytes]:
    if not path.is_file():
        raise ModelInvalid(f"{path}: expected this shard beside its manifest, it is missing")
    if path.stat().st_size != shard["size_bytes"]:
        raise ModelInvalid(f"{path}: expected {shard['size_bytes']} bytes, got {path.stat().st_size} (a damaged shard)")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_WILLNEED)
    memory = np.frombuffer(mapped, dtype=np.uint8)
    entries = {entry["name"]: entry for entry in shard["tensors"]}
    buffers = {}
    for tensor, offset in zip(tensors, offsets_of(tensors)[0], strict=True):
        entry = entries.get(tensor.name)
        if entry is None or {k: v for k, v in entry.items() if k != "digest"} != _entry(tensor, offset):
            raise ModelInvalid(f"{path}: {tensor.name}: expected {_entry(tensor, offset)}, the manifest says {entry}")
        data = memory[offset : offset + tensor.size_bytes]
        if digest(data) != entry["digest"]:
            raise ModelInvalid(f"{path}: {tensor.name}: its bytes do not match the manifest's digest (a damaged shard)")
        buffers[tensor.name] = data
    return buffers
