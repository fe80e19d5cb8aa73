"""The published T5 shapes: their config.json, and the tensors of their checkpoints.

FLAN and UL2 keep two different matrices for input and output (`tie_word_embeddings: false`, no output scaling), T5 1.0
shares one and scales by d_model^-0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.models.random_weights.t5_tokenizer import write_tokenizer
from engines.models.random_weights.tensor import Tensor


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

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the checkpoint, Hugging Face's names."""
        return _tensors(self)

    @property
    def has_chat_template(self) -> bool:
        """No T5 is published with one."""
        return False

    def write_tokenizer(self, folder: Path) -> None:
        """The stand-in tokenizer, closed by T5's end token."""
        write_tokenizer(folder, self.vocab_size)


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

T5_SHAPES: Mapping[str, T5Shape] = {
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


def _tensors(shape: T5Shape) -> Iterator[Tensor]:
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
