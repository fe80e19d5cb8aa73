"""Model folders with random weights in the published shapes, for speed work without a hub.

The folder has the config, tensor names and sizes of the published checkpoint, in its dtype; the numbers are random and
the tokenizer is a stand-in. Tensors are written one at a time in chunks, so memory stays small at any size. The values
are scaled so that greedy answers vary from token to token; text is meaningless and answers are right or wrong by
comparison only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engines.errors import ModelInvalid, Unavailable
from engines.models.cache import build_once
from engines.models.random_weights.shapes import SHAPES, Shape
from engines.models.random_weights.tensor import Tensor
from engines.nearest import did_you_mean

VERSION = 1
"""Part of the cache key: raise it when the values or the tokenizer change."""

SHARD_BYTES = 4_000_000_000
_CHUNK_VALUES = 1 << 22
_STORED = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}
"""config.json's dtype -> (the format's word, bytes of a value)."""


def random_model(name: str, seed: int, cache: Path) -> Path:
    """The cached folder of random weights of a published shape. Raises ModelInvalid for an unknown name, Unavailable
    when the disk is too small."""
    if name not in SHAPES:
        hint = did_you_mean(name, SHAPES)
        raise ModelInvalid(f"unknown model shape {name!r}; known: {', '.join(SHAPES)}{hint}")
    of = hashlib.sha256(json.dumps(SHAPES[name].config(), sort_keys=True).encode()).hexdigest()[:8]
    folder = cache / "shapes" / f"{name}-seed{seed}-{of}-v{VERSION}"
    return build_once(folder, lambda temporary: write_random_model(temporary, SHAPES[name], seed))


def write_random_model(folder: Path, shape: Shape, seed: int, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Fill `folder` with config, weights and a stand-in tokenizer."""
    config = shape.config()
    dtype, width = _STORED[config["torch_dtype"]]
    plan = tuple(shape.tensors())
    total = width * sum(tensor.size for tensor in plan)
    free = shutil.disk_usage(folder).free
    if free < total * 1.02:
        raise Unavailable(
            f"{folder}: the weights take {total / 1e9:.1f} GB, only {free / 1e9:.1f} GB are free; free space or point "
            "DYNO_CACHE at another disk"
        )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shape.write_tokenizer(folder)
    shards = _shards(plan, shard_bytes // width)
    if len(shards) == 1:
        _write_shard(folder / "model.safetensors", shards[0], seed, dtype)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, shard, seed, dtype)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(plan: Sequence[Tensor], shard_values: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    for tensor in plan:
        if shards[-1] and sum(item.size for item in shards[-1]) + tensor.size > shard_values:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def _write_shard(path: Path, plan: Sequence[Tensor], seed: int, dtype: str) -> None:
    width = dict(_STORED.values())[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in plan:
        end = offset + width * tensor.size
        header[tensor.name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in plan:
            _write_values(file, tensor, seed, dtype)


def _write_values(file: BinaryIO, tensor: Tensor, seed: int, dtype: str) -> None:
    """Seeded by (seed, tensor name), so that values do not depend on order or sharding."""
    generator = np.random.Generator(np.random.SFC64([seed, zlib.crc32(tensor.name.encode())]))
    left = tensor.size
    while left:
        values = generator.standard_normal(min(left, _CHUNK_VALUES), dtype=np.float32)
        values *= np.float32(tensor.std)
        values += np.float32(tensor.mean)
        file.write(_stored(values, dtype).data)
        left -= len(values)


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values as the file keeps them; to bf16, which numpy has not, they are rounded to the nearest even."""
    if dtype == "BF16":
        bits = values.astype("<f4", copy=False).view("<u4")
        rounded: np.ndarray = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        return rounded
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype], copy=False)
