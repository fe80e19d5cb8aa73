"""The tensors of a decoder-only checkpoint by family, from the sizes in its config.json.

One line a tensor: Hugging Face's name with * for the layer, its sizes, its part in the model. Letters: V vocabulary,
E hidden, F feed-forward, Q all heads, K all key-value heads, D one head, P rows of positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from engines.models.checkpoint.kind import ModelKind
from engines.models.random_weights.tensor import Tensor

_ATTENTION = """
model.layers.*.self_attn.q_proj.weight Q,E query
model.layers.*.self_attn.k_proj.weight K,E in
model.layers.*.self_attn.v_proj.weight K,E in
model.layers.*.self_attn.o_proj.weight E,Q out
"""
_GATED = """
model.layers.*.mlp.gate_proj.weight F,E in
model.layers.*.mlp.up_proj.weight F,E in
model.layers.*.mlp.down_proj.weight E,F out
"""
_QKV_BIAS = """
model.layers.*.self_attn.q_proj.bias Q bias
model.layers.*.self_attn.k_proj.bias K bias
model.layers.*.self_attn.v_proj.bias K bias
"""
_HEAD_NORMS = """
model.layers.*.self_attn.q_norm.weight D norm
model.layers.*.self_attn.k_norm.weight D norm
"""
_NORMS = """
model.layers.*.input_layernorm.weight E norm
model.layers.*.post_attention_layernorm.weight E norm
"""
_FORWARD_NORMS = """
model.layers.*.pre_feedforward_layernorm.weight E norm
model.layers.*.post_feedforward_layernorm.weight E norm
"""
_EMBEDDING = "model.embed_tokens.weight V,E embedding"
_END = """
model.norm.weight E norm
lm_head.weight V,E head
"""


def _llama(*more: str) -> str:
    return "\n".join((_EMBEDDING, _ATTENTION, _GATED, _NORMS, *more, _END))


_LAYOUTS: Mapping[str, str] = {
    "llama": _llama(),
    "mistral": _llama(),
    "qwen2": _llama(_QKV_BIAS),
    "qwen3": _llama(_HEAD_NORMS),
    "gemma": _llama(),
    "gemma2": _llama(_FORWARD_NORMS),
    "gemma3_text": _llama(_HEAD_NORMS, _FORWARD_NORMS),
    "phi3": f"""
{_EMBEDDING}
model.layers.*.self_attn.qkv_proj.weight Q+K+K,E fused
model.layers.*.self_attn.o_proj.weight E,Q out
model.layers.*.mlp.gate_up_proj.weight F+F,E in
model.layers.*.mlp.down_proj.weight E,F out
{_NORMS}
{_END}""",
    "phi": f"""
{_EMBEDDING}
model.layers.*.input_layernorm.weight E norm
model.layers.*.input_layernorm.bias E bias
{_ATTENTION.replace("o_proj", "dense")}
{_QKV_BIAS}
model.layers.*.self_attn.dense.bias E bias
model.layers.*.mlp.fc1.weight F,E in
model.layers.*.mlp.fc1.bias F threshold
model.layers.*.mlp.fc2.weight E,F sparse
model.layers.*.mlp.fc2.bias E bias
model.final_layernorm.weight E norm
model.final_layernorm.bias E bias
lm_head.weight V,E head
lm_head.bias V bias
""",
    "gpt2": """
transformer.wte.weight V,E embedding
transformer.wpe.weight P,E embedding
transformer.h.*.ln_1.weight E norm
transformer.h.*.ln_1.bias E bias
transformer.h.*.attn.c_attn.weight E,Q+K+K fused-first
transformer.h.*.attn.c_attn.bias Q+K+K bias
transformer.h.*.attn.c_proj.weight Q,E out-first
transformer.h.*.attn.c_proj.bias E bias
transformer.h.*.ln_2.weight E norm
transformer.h.*.ln_2.bias E bias
transformer.h.*.mlp.c_fc.weight E,F in-first
transformer.h.*.mlp.c_fc.bias F threshold
transformer.h.*.mlp.c_proj.weight F,E sparse-first
transformer.h.*.mlp.c_proj.bias E bias
transformer.ln_f.weight E norm
transformer.ln_f.bias E bias
lm_head.weight V,E head
""",
    "opt": """
model.decoder.embed_tokens.weight V,E embedding
model.decoder.embed_positions.weight P,E embedding
model.decoder.layers.*.self_attn_layer_norm.weight E norm
model.decoder.layers.*.self_attn_layer_norm.bias E bias
model.decoder.layers.*.self_attn.q_proj.weight Q,E query
model.decoder.layers.*.self_attn.q_proj.bias Q bias
model.decoder.layers.*.self_attn.k_proj.weight K,E in
model.decoder.layers.*.self_attn.k_proj.bias K bias
model.decoder.layers.*.self_attn.v_proj.weight K,E in
model.decoder.layers.*.self_attn.v_proj.bias K bias
model.decoder.layers.*.self_attn.out_proj.weight E,Q out
model.decoder.layers.*.self_attn.out_proj.bias E bias
model.decoder.layers.*.final_layer_norm.weight E norm
model.decoder.layers.*.final_layer_norm.bias E bias
model.decoder.layers.*.fc1.weight F,E in
model.decoder.layers.*.fc1.bias F threshold
model.decoder.layers.*.fc2.weight E,F sparse
model.decoder.layers.*.fc2.bias E bias
model.decoder.final_layer_norm.weight E norm
model.decoder.final_layer_norm.bias E bias
lm_head.weight V,E head
""",
    "bloom": """
transformer.word_embeddings.weight V,E embedding
transformer.word_embeddings_layernorm.weight E norm
transformer.word_embeddings_layernorm.bias E bias
transformer.h.*.input_layernorm.weight E norm
transformer.h.*.input_layernorm.bias E bias
transformer.h.*.self_attention.query_key_value.weight Q+K+K,E fused
transformer.h.*.self_attention.query_key_value.bias Q+K+K bias
transformer.h.*.self_attention.dense.weight E,Q out
transformer.h.*.self_attention.dense.bias E bias
transformer.h.*.post_attention_layernorm.weight E norm
transformer.h.*.post_attention_layernorm.bias E bias
transformer.h.*.mlp.dense_h_to_4h.weight F,E in
transformer.h.*.mlp.dense_h_to_4h.bias F threshold
transformer.h.*.mlp.dense_4h_to_h.weight E,F sparse
transformer.h.*.mlp.dense_4h_to_h.bias E bias
transformer.ln_f.weight E norm
transformer.ln_f.bias E bias
lm_head.weight V,E head
""",
    "gptj": """
transformer.wte.weight V,E embedding
transformer.h.*.ln_1.weight E norm
transformer.h.*.ln_1.bias E bias
transformer.h.*.attn.q_proj.weight Q,E query
transformer.h.*.attn.k_proj.weight K,E in
transformer.h.*.attn.v_proj.weight K,E in
transformer.h.*.attn.out_proj.weight E,Q out
transformer.h.*.mlp.fc_in.weight F,E in
transformer.h.*.mlp.fc_in.bias F threshold
transformer.h.*.mlp.fc_out.weight E,F sparse
transformer.h.*.mlp.fc_out.bias E bias
transformer.ln_f.weight E norm
transformer.ln_f.bias E bias
lm_head.weight V,E head
lm_head.bias V bias
""",
    "gpt_neox": """
gpt_neox.embed_in.weight V,E embedding
gpt_neox.layers.*.input_layernorm.weight E norm
gpt_neox.layers.*.input_layernorm.bias E bias
gpt_neox.layers.*.post_attention_layernorm.weight E norm
gpt_neox.layers.*.post_attention_layernorm.bias E bias
gpt_neox.layers.*.attention.query_key_value.weight Q+K+K,E fused
gpt_neox.layers.*.attention.query_key_value.bias Q+K+K bias
gpt_neox.layers.*.attention.dense.weight E,Q out
gpt_neox.layers.*.attention.dense.bias E bias
gpt_neox.layers.*.mlp.dense_h_to_4h.weight F,E in
gpt_neox.layers.*.mlp.dense_h_to_4h.bias F threshold
gpt_neox.layers.*.mlp.dense_4h_to_h.weight E,F sparse
gpt_neox.layers.*.mlp.dense_4h_to_h.bias E bias
gpt_neox.final_layer_norm.weight E norm
gpt_neox.final_layer_norm.bias E bias
embed_out.weight V,E head
""",
}
_POSITIONS_BEFORE = {"opt": 2}
"""Rows of the position table beyond the model's positions."""
_NORM_MEAN = {"gemma": 0.0, "gemma2": 0.0, "gemma3_text": 0.0}
"""Gemma multiplies by one plus the weight."""

_THRESHOLD = -1.5
"""Bias before a ReLU or GELU without a gate: their mean would be one direction, the same for every token."""


def decoder_tensors(kind: ModelKind, config: Mapping[str, Any]) -> Iterator[Tensor]:
    """Every tensor of the checkpoint, Hugging Face's names. A tied head has none."""
    rows = [line.split() for line in _LAYOUTS[kind.model_type].splitlines() if line]
    sizes = _sizes(kind, config)
    for is_layer, group in groupby(rows, key=lambda row: ".*." in row[0]):
        repeated = list(group)
        for layer in range(kind.layers if is_layer else 1):
            for name, letters, role in repeated:
                if role == "head" and kind.is_tied:
                    continue
                shape = tuple(sum(sizes[letter] for letter in size.split("+")) for size in letters.split(","))
                yield Tensor(name.replace("*", str(layer)), shape, *_spread(role, shape, kind))


def _sizes(kind: ModelKind, config: Mapping[str, Any]) -> dict[str, int]:
    wide = next((config[name] for name in ("intermediate_size", "ffn_dim", "n_inner") if config.get(name)), None)
    return {
        "V": kind.vocab_size,
        "E": kind.hidden,
        "F": wide or 4 * kind.hidden,
        "Q": kind.heads * kind.head_dim,
        "K": kind.kv_heads * kind.head_dim,
        "D": kind.head_dim,
        "P": (kind.max_positions or 0) + _POSITIONS_BEFORE.get(kind.model_type, 0),
    }


def _spread(role: str, shape: tuple[int, ...], kind: ModelKind) -> tuple[float, float]:
    """(std, mean) of the values. Sublayers drown the embedding that they are added to, or a random model repeats one
    token for ever; more so where the head is the embedding itself, and every token votes for itself."""
    embedding = 2.0 * kind.hidden**-0.5
    is_gemma = kind.model_type in _NORM_MEAN
    stream = 2.0 if is_gemma else embedding  # Gemma multiplies its embeddings by the root of the hidden size
    residual = (8.0 if kind.is_tied else 2.0) * stream
    reads = float(shape[0] if role.endswith("-first") else shape[-1])  # GPT-2 stores its matrices the other way round
    stds = {
        "embedding": embedding,
        "head": embedding,
        "query": 2.0 * reads**-0.5,  # attention picks
        "in": reads**-0.5,
        "fused": 2.0**0.5 * reads**-0.5,
        "out": residual * reads**-0.5,
        "sparse": 5.0 * residual * reads**-0.5,  # behind a threshold, few features are on
        "norm": 0.2,
        "bias": 0.1 * stream,
        "threshold": 0.1,
    }
    means = {"norm": _NORM_MEAN.get(kind.model_type, 1.0), "threshold": _THRESHOLD}
    return stds[role.removesuffix("-first")], means.get(role, 0.0)
