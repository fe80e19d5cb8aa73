"""Model folders with random weights in the published T5 shapes, for speed work without a hub.

The folder has the config, tensor names and sizes of the published checkpoint; only the numbers are random. FLAN and
UL2 keep two different matrices for input and output (`tie_word_embeddings: false`, no output scaling), T5 1.0 shares
one and scales by d_model^-0.5. Tensors are written one at a time in chunks, so memory stays small at any size. The
values are scaled so that greedy answers vary from token to token; text is meaningless and quality cannot be judged.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engines.errors import ModelInvalid, Unavailable
from engines.models.cache import build_once
from engines.nearest import did_you_mean

VERSION = 1
"""Part of the cache key: raise it when the values or the tokenizer change."""

SHARD_BYTES = 4_000_000_000
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Shape:
    """One architecture. Letters of the house style: E d_model, F d_ff, H heads, D d_kv, L layers, V vocabulary."""

    d_model: int
    d_ff: int
    num_heads: int
    num_layers: int
    d_kv: int = 64
    vocab_size: int = 32128
    feed_forward_proj: str = "gated-gelu"
    is_tied: bool = False

    def config(self) -> dict[str, Any]:
        """config.json as the published checkpoints word it; read the same way by transformers 4 and 5."""
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "d_model": self.d_model,
            "d_ff": self.d_ff,
            "d_kv": self.d_kv,
            "num_heads": self.num_heads,
            "num_layers": self.num_layers,
            "num_decoder_layers": self.num_layers,
            "vocab_size": self.vocab_size,
            "feed_forward_proj": self.feed_forward_proj,
            "tie_word_embeddings": self.is_tied,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-06,
            "dropout_rate": 0.1,
            "is_encoder_decoder": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
            "use_cache": True,
            "torch_dtype": "float32",
        }


def _flan(d_model: int, d_ff: int, num_heads: int, num_layers: int) -> T5Shape:
    return T5Shape(d_model=d_model, d_ff=d_ff, num_heads=num_heads, num_layers=num_layers)


def _v1(d_model: int, d_ff: int, num_heads: int, num_layers: int, d_kv: int = 64) -> T5Shape:
    return T5Shape(
        d_model=d_model,
        d_ff=d_ff,
        num_heads=num_heads,
        num_layers=num_layers,
        d_kv=d_kv,
        feed_forward_proj="relu",
        is_tied=True,
    )


_UL2 = T5Shape(d_model=4096, d_ff=16384, num_heads=16, num_layers=32, d_kv=256, feed_forward_proj="gated-silu")

SHAPES: Mapping[str, T5Shape] = {
    "flan-t5-small": _flan(512, 1024, 6, 8),
    "flan-t5-base": _flan(768, 2048, 12, 12),
    "flan-t5-large": _flan(1024, 2816, 16, 24),
    "flan-t5-xl": _flan(2048, 5120, 32, 24),
    "flan-t5-xxl": _flan(4096, 10240, 64, 24),
    "t5-small": _v1(512, 2048, 8, 6),
    "t5-base": _v1(768, 3072, 12, 12),
    "t5-large": _v1(1024, 4096, 16, 24),
    "t5-3b": _v1(1024, 16384, 32, 24, 128),
    "t5-11b": _v1(1024, 65536, 128, 24, 128),
    "ul2": _UL2,
    "flan-ul2": _UL2,
}
"""Published shapes (Raffel et al. 2020; Chung et al. 2022; Tay et al. 2022), from the checkpoints' configs."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to write: values are mean + std * N(0, 1)."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def size_bytes(self) -> int:
        return 4 * prod(self.shape)


def random_model(name: str, seed: int, cache: Path) -> Path:
    """The cached folder of random weights of a published shape. Raises ModelInvalid for an unknown name, Unavailable
    when the disk is too small."""
    if name not in SHAPES:
        hint = did_you_mean(name, SHAPES)
        raise ModelInvalid(f"unknown model shape {name!r}; known: {', '.join(SHAPES)}{hint}")
    folder = cache / "shapes" / f"{name}-seed{seed}-v{VERSION}"
    return build_once(folder, lambda temporary: write_random_model(temporary, SHAPES[name], seed))


def write_random_model(folder: Path, shape: T5Shape, seed: int, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Fill `folder` with config, weights and a stand-in tokenizer."""
    from engines.models.random_tokenizer import write_tokenizer

    plan = tuple(tensors(shape))
    total = sum(tensor.size_bytes for tensor in plan)
    free = shutil.disk_usage(folder).free
    if free < total * 1.02:
        raise Unavailable(
            f"{folder}: the weights take {total / 1e9:.1f} GB, only {free / 1e9:.1f} GB are free; free space or point "
            "DYNO_CACHE at another disk"
        )
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n", encoding="utf-8")
    write_tokenizer(folder, shape.vocab_size)
    shards = _shards(plan, shard_bytes)
    if len(shards) == 1:
        _write_shard(folder / "model.safetensors", shards[0], seed)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, shard, seed)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def tensors(shape: T5Shape) -> Iterator[Tensor]:
    """Every tensor of the checkpoint, Hugging Face's names."""
    # Sublayers must drown the embedding they are added to, or a random model repeats one token for ever; more so where
    # the head is the embedding itself and every token votes for itself.
    embedding_std, residual_std = (1.0, 8.0) if shape.is_tied else (0.3, 0.6)
    yield Tensor("shared.weight", (shape.vocab_size, shape.d_model), embedding_std)
    for stack in ("encoder", "decoder"):
        for layer in range(shape.num_layers):
            yield from _block(shape, stack, layer, residual_std)
        yield Tensor(f"{stack}.final_layer_norm.weight", (shape.d_model,), 0.2, mean=1.0)
    if not shape.is_tied:
        yield Tensor("lm_head.weight", (shape.vocab_size, shape.d_model), 2.0 * shape.d_model**-0.5)


def _block(shape: T5Shape, stack: str, layer: int, residual_std: float) -> Iterator[Tensor]:
    prefix = f"{stack}.block.{layer}.layer"
    yield from _attention(shape, f"{prefix}.0.SelfAttention", residual_std)
    if layer == 0:
        yield Tensor(f"{prefix}.0.SelfAttention.relative_attention_bias.weight", (32, shape.num_heads), 1.0)
    yield Tensor(f"{prefix}.0.layer_norm.weight", (shape.d_model,), 0.2, mean=1.0)
    sublayer = 1
    if stack == "decoder":
        yield from _attention(shape, f"{prefix}.1.EncDecAttention", residual_std)
        yield Tensor(f"{prefix}.1.layer_norm.weight", (shape.d_model,), 0.2, mean=1.0)
        sublayer = 2
    dense = f"{prefix}.{sublayer}.DenseReluDense"
    gates = ("wi_0", "wi_1") if shape.feed_forward_proj.startswith("gated") else ("wi",)
    for gate in gates:
        yield Tensor(f"{dense}.{gate}.weight", (shape.d_ff, shape.d_model), shape.d_model**-0.5)
    yield Tensor(f"{dense}.wo.weight", (shape.d_model, shape.d_ff), residual_std * shape.d_ff**-0.5)
    yield Tensor(f"{prefix}.{sublayer}.layer_norm.weight", (shape.d_model,), 0.2, mean=1.0)


def _attention(shape: T5Shape, prefix: str, residual_std: float) -> Iterator[Tensor]:
    inner = shape.num_heads * shape.d_kv
    # Scores are q.k without 1/sqrt(D): q takes the factor, as in T5's own initialisation; 2.0 makes attention pick.
    yield Tensor(f"{prefix}.q.weight", (inner, shape.d_model), 2.0 * (shape.d_model * shape.d_kv) ** -0.5)
    yield Tensor(f"{prefix}.k.weight", (inner, shape.d_model), shape.d_model**-0.5)
    yield Tensor(f"{prefix}.v.weight", (inner, shape.d_model), shape.d_model**-0.5)
    yield Tensor(f"{prefix}.o.weight", (shape.d_model, inner), residual_std * inner**-0.5)


def _shards(plan: Sequence[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    for tensor in plan:
        if shards[-1] and sum(item.size_bytes for item in shards[-1]) + tensor.size_bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def _write_shard(path: Path, plan: Sequence[Tensor], seed: int) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in plan:
        end = offset + tensor.size_bytes
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in plan:
            _write_values(file, tensor, seed)


def _write_values(file: BinaryIO, tensor: Tensor, seed: int) -> None:
    """Seeded by (seed, tensor name), so that values do not depend on order or sharding."""
    generator = np.random.Generator(np.random.SFC64([seed, zlib.crc32(tensor.name.encode())]))
    left = prod(tensor.shape)
    while left:
        values = generator.standard_normal(min(left, _CHUNK_VALUES), dtype=np.float32)
        values *= np.float32(tensor.std)
        values += np.float32(tensor.mean)
        file.write(values.astype("<f4", copy=False).data)
        left -= len(values)
