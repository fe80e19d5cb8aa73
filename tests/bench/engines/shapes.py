"""Model folders with random weights in the shapes of published T5 checkpoints, written tensor by tensor."""

# ruff: noqa: N806 - tensor letters

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# name: d_model, d_ff, heads, d_kv, layers (each stack); vocabulary 32128, gated, untied (engines.md 1.1)
SHAPES = {
    "flan-t5-small": (512, 1024, 6, 64, 8),
    "flan-t5-base": (768, 2048, 12, 64, 12),
    "flan-t5-large": (1024, 2816, 16, 64, 24),
    "flan-t5-xl": (2048, 5120, 32, 64, 24),
    "flan-t5-xxl": (4096, 10240, 64, 64, 24),
}
VOCAB = 32128
TINY = "tiny"
BUCKETS = 32
DRAWN = (1 << 22) + 1
"""Odd, so that rows of a matrix do not repeat each other."""


def make_tiny() -> None:
    """A shape that the emulator runs in seconds, under the name TINY."""
    global VOCAB
    SHAPES[TINY] = (64, 128, 4, 16, 2)
    VOCAB = 480


def tensors(name: str) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """(checkpoint name, shape, standard deviation; 0 means all ones). Scales keep greedy ids varied."""
    E, F, H, D, L = SHAPES[name]
    inner = H * D
    yield "shared.weight", (VOCAB, E), 0.3
    for stack in ("encoder", "decoder"):
        for layer in range(L):
            block = f"{stack}.block.{layer}.layer"
            for part, module in enumerate(("SelfAttention", "EncDecAttention")[: 1 if stack == "encoder" else 2]):
                for p, std in (("q", 1.0 / (E**0.5 * D**0.25)), ("k", 1.0 / (E**0.5 * D**0.25)), ("v", E**-0.5)):
                    yield f"{block}.{part}.{module}.{p}.weight", (inner, E), std
                yield f"{block}.{part}.{module}.o.weight", (E, inner), inner**-0.5
                yield f"{block}.{part}.layer_norm.weight", (E,), 0.0
            if layer == 0:
                yield f"{block}.0.SelfAttention.relative_attention_bias.weight", (BUCKETS, H), 0.5
            last = 1 if stack == "encoder" else 2
            for wi in ("wi_0", "wi_1"):
                yield f"{block}.{last}.DenseReluDense.{wi}.weight", (F, E), E**-0.5
            yield f"{block}.{last}.DenseReluDense.wo.weight", (E, F), F**-0.5
            yield f"{block}.{last}.layer_norm.weight", (E,), 0.0
        yield f"{stack}.final_layer_norm.weight", (E,), 0.0
    yield "lm_head.weight", (VOCAB, E), 1.0


def config(name: str) -> dict[str, object]:
    """config.json as transformers 5 would save this shape."""
    E, F, H, D, L = SHAPES[name]
    return {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": E, "d_ff": F, "num_heads": H,
        "d_kv": D, "num_layers": L, "num_decoder_layers": L, "vocab_size": VOCAB, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": True, "scale_decoder_outputs": False, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0, "dropout_rate": 0.0, "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6, "is_encoder_decoder": True,
    }  # fmt: skip


def write(name: str, folder: Path, seed: int = 0, dtype: str = "F32") -> Path:
    """The folder, written once; `dtype` F32 or BF16. Holds one tensor in memory.

    BF16 is for xl and xxl: half the disk, and a few million numbers drawn and repeated, else drawing takes minutes.
    """
    if (folder / "model.safetensors").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    size = 4 if dtype == "F32" else 2
    header: dict[str, object] = {}
    end = 0
    for key, shape, _ in tensors(name):
        begin, end = end, end + int(np.prod(shape)) * size
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    few = rng.standard_normal(DRAWN, np.float32) if dtype == "BF16" else None

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) if few is None else np.resize(few, shape)

    partial = folder / "model.partial"
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape, std in tensors(name):
            values = np.full(shape, 1.0, np.float32) if std == 0.0 else draw(shape) * np.float32(std)
            raw = np.ascontiguousarray(values, np.float32)
            (raw if size == 4 else (raw.view(np.uint32) >> 16).astype(np.uint16)).tofile(file)
    partial.rename(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(name), indent=1), encoding="utf-8")
    return folder
