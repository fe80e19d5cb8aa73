"""Ahead-of-time partition of a T5 model: packed, hashed shards on disk, and loading them by memory map.

    partition(model_dir, dtype, tensor_parallel_degree, out)

writes `rank-0.t5k`, `rank-1.t5k`, ... and `t5k.json` (what each holds, its digest, the source and the engine's layout
version) beside copies of the model's config and tokenizer files, so that the folder is served like a model folder.
Needs no accelerator and holds one tensor at a time. Loading maps the shards and checks every digest.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import fcntl
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import ModelInvalid, SpecInvalid
from engines.t5 import native
from engines.t5.config import T5Config, read_config
from engines.t5.pack_rows import Bytes
from engines.t5.packing_plan import PackedModel, PlannedTensor, offsets_of, plan, resolve_dtype
from engines.t5.weights import Checkpoint

MANIFEST = "t5k.json"
LAYOUT = 1
"""Raise when packed bytes change meaning; a folder of another layout is refused."""

_IN_USE = ".in-use"
"""In a folder that is being written: locked by the process that writes it."""

_DOTS = 3
"""In a tensor's name: stack.layer.role.rank."""

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


def partition(
    model_dir: Path, dtype: str, tensor_parallel_degree: int, out: Path, beside: Mapping[str, str] | None = None
) -> PartitionSummary:
    """Pack a Hugging Face folder into `out`, which must be empty or absent; nothing half-written stays after an error.

    `beside` are more files for the folder, name -> text. Raises ModelInvalid for the model, SpecInvalid for the dtype,
    the degree or a used `out`.
    """
    dtype = resolve_dtype(dtype)
    config, checkpoint = read_config(model_dir), Checkpoint(model_dir)
    checkpoint.check_head(has_own_head=config.has_own_head)
    tensors = plan(config, dtype, tensor_parallel_degree, checkpoint.names())
    try:
        with _building(out) as building:
            shards = [_write_shard(building, rank, tensors, checkpoint) for rank in range(tensor_parallel_degree)]
            copied = [name for name in _COPIED if (model_dir / name).is_file()]
            for name in copied:
                shutil.copyfile(model_dir / name, building / name)
            manifest = {
                "layout": LAYOUT, "dtype": dtype, "tensor_parallel_degree": tensor_parallel_degree,
                "source": str(model_dir.name), "shards": shards,
                "files": {name: _file_digest(building / name) for name in copied},
            }  # fmt: skip
            for name, text in (beside or {}).items():
                (building / name).write_text(text, encoding="utf-8")
            (building / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise SpecInvalid(f"{out}: the partition could not be written, nothing of it stays: {error}") from error
    return PartitionSummary(
        folder=out,
        shards=tuple(out / shard["file"] for shard in shards),
        size_bytes=sum(shard["size_bytes"] for shard in shards),
    )


@contextlib.contextmanager
def _building(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end, or goes if anything fails.

    One that a killed process left is taken over; one that is in use, or that we did not make, is refused.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecInvalid(f"{out}: expected an empty or absent folder, it {'holds' if out.is_dir() else 'is'} files")
    building = out.absolute().with_name(out.absolute().name + ".partial")
    if building.exists() and not (building / _IN_USE).is_file() and any(building.iterdir()):
        raise SpecInvalid(f"{building}: expected no such folder, what it holds is not ours; move it away")
    building.mkdir(parents=True, exist_ok=True)
    with (building / _IN_USE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecInvalid(f"{building}: another process is writing this partition") from None
        try:
            for old in building.iterdir():
                if old.name != _IN_USE:
                    old.unlink()
            yield building
            (building / _IN_USE).unlink()
            building.rename(out)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


def _write_shard(folder: Path, rank: int, tensors: Sequence[PlannedTensor], checkpoint: Checkpoint) -> dict[str, Any]:
    mine = [t for t in tensors if t.rank == rank]
    offsets, total = offsets_of(mine)
    entries, name = [], f"rank-{rank}.t5k"
    with (folder / name).open("wb") as file:
        for tensor, offset in zip(mine, offsets, strict=True):
            data = np.zeros(tensor.size_bytes, dtype=np.uint8)
            tensor.fill(checkpoint, data)
            file.seek(offset)
            file.write(data.data)
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


def _file_digest(path: Path) -> str:
    return digest(np.frombuffer(path.read_bytes(), dtype=np.uint8))


def open_partition(folder: Path, config: T5Config, dtype: str, degree: int) -> PackedModel:
    """Map a partition made for exactly this dtype and degree. Raises ModelInvalid in one sentence otherwise."""
    manifest = _read_manifest(folder)
    for key, wanted in (("layout", LAYOUT), ("dtype", resolve_dtype(dtype)), ("tensor_parallel_degree", degree)):
        if manifest.get(key) != wanted:
            raise ModelInvalid(
                f"{folder / MANIFEST}: {key}: this partition was made for {manifest.get(key)!r}, asked for "
                f"{wanted!r}; run `dyno partition` again or load it as what it is"
            )
    _check_shape(folder / MANIFEST, manifest, degree)
    for name, wrote in manifest.get("files", {}).items():
        if not (folder / name).is_file() or _file_digest(folder / name) != wrote:
            raise ModelInvalid(f"{folder / name}: expected the file that was written here, it is missing or changed")
    tensors = plan(config, dtype, degree, _names_in(manifest))
    buffers: dict[str, Bytes] = {}
    for rank, shard in enumerate(manifest["shards"]):
        mine = [t for t in tensors if t.rank == rank]
        buffers |= _map_shard(folder / f"rank-{rank}.t5k", shard, mine)
    return PackedModel(tensors, [buffers[t.name] for t in tensors], buffers)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"{folder / MANIFEST}: expected a partition's manifest, got {error}") from error
    if not isinstance(manifest, dict):
        raise ModelInvalid(f"{folder / MANIFEST}: expected a partition's manifest, got {type(manifest).__name__}")
    return manifest


def _check_shape(path: Path, manifest: dict[str, Any], degree: int) -> None:
    """That the manifest's parts are of the kind that the loader reads, shard by shard. Raises ModelInvalid."""
    files, shards = manifest.get("files", {}), manifest.get("shards")
    is_sound = isinstance(files, dict) and all(name in _COPIED for name in files)
    is_sound = is_sound and isinstance(shards, list) and len(shards) == degree
    for shard in shards if is_sound and isinstance(shards, list) else ():
        entries = shard.get("tensors") if isinstance(shard, dict) else None
        is_sound = is_sound and isinstance(entries, list) and all(
            isinstance(e, dict) and isinstance(e.get("name"), str) and e["name"].count(".") == _DOTS for e in entries
        )  # fmt: skip
    if not is_sound:
        raise ModelInvalid(f"{path}: expected {degree} shard(s), each a list of named tensors (a damaged manifest)")


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
    offsets, total = offsets_of(tensors)
    entries = {entry["name"]: entry for entry in shard["tensors"]}
    for tensor, offset in zip(tensors, offsets, strict=True):
        entry = entries.get(tensor.name)
        if entry is None or {k: v for k, v in entry.items() if k != "digest"} != _entry(tensor, offset):
            raise ModelInvalid(f"{path}: {tensor.name}: expected {_entry(tensor, offset)}, the manifest has {entry}")
    if path.stat().st_size != total:
        raise ModelInvalid(f"{path}: expected {total} bytes, got {path.stat().st_size} (a damaged shard)")
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelInvalid(f"{path}: expected a shard that can be mapped, got {error}") from error
    mapped.madvise(mmap.MADV_WILLNEED)
    memory = np.frombuffer(mapped, dtype=np.uint8)
    buffers = {}
    for tensor, offset in zip(tensors, offsets, strict=True):
        data = memory[offset : offset + tensor.size_bytes]
        if digest(data) != entries[tensor.name].get("digest"):
            raise ModelInvalid(f"{path}: {tensor.name}: its bytes do not match the manifest's digest (a damaged shard)")
        buffers[tensor.name] = data
    return buffers
