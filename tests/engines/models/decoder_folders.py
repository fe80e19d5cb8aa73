"""Tiny decoder-only checkpoints with random weights, one of each family, with what published ones carry.

Scaled rotary positions, windows shorter than prompt and answer, head sizes other than hidden / heads, biases, partial
rotary positions, tied and untied heads, one or two end ids. Biases and norms are random too, so that an engine that
leaves one out gives other answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engines.models.random_weights.decoder_tokenizer import BOS, EOS, PAD, STOP, write_bpe_tokenizer

VOCAB = 512
POSITIONS = 128
_PLAIN: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
_GROUPED: Mapping[str, Any] = {**_PLAIN, "num_key_value_heads": 2}
_GPT2: Mapping[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.5 + 0.5 * i for i in range(8)],
}


def _partial(frac: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": frac}


FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": _GPT2,
    "opt": {**_PLAIN, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "gptj": {**_GPT2, "rotary_dim": 8},
    "gpt_neox": {**_PLAIN, "rope_parameters": _partial(0.25)},
    "llama": {**_GROUPED, "rope_parameters": _LLAMA3},
    "mistral": {**_GROUPED, "sliding_window": 12},
    "qwen2": {**_GROUPED, "tie_word_embeddings": True},
    "qwen3": {**_GROUPED, "head_dim": 24},
    "phi": {**_PLAIN, "rope_parameters": _partial(0.5)},
    "phi3": {**_GROUPED, "sliding_window": 40, "original_max_position_embeddings": 48, "rope_parameters": _LONGROPE},
    "gemma": {**_GROUPED, "num_key_value_heads": 1, "head_dim": 24},
    "gemma2": {
        **_GROUPED,
        "head_dim": 24,
        "sliding_window": 12,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 10.0,
    },
    "gemma3_text": {
        **_GROUPED,
        "head_dim": 24,
        "sliding_window": 12,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
"""model_type -> the fields of its config; vocabulary and special ids are the same for all."""

ADDS_BOS = ("opt", "llama", "mistral", "phi3", "gemma", "gemma2", "gemma3_text")
TWO_ENDS = ("llama", "qwen2", "qwen3", "gemma3_text")
"""Families whose tokenizer adds <s>, and those that end in either of two ids, as published ones do."""


def write_decoder(folder: Path, model_type: str, seed: int = 0, **changes: Any) -> Path:
    """Write the family's checkpoint; `changes` replace fields of its config."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    ends = [EOS, STOP] if model_type in TWO_ENDS else EOS
    ids = {"vocab_size": VOCAB, "bos_token_id": BOS, "eos_token_id": ends, "pad_token_id": PAD}
    config = AutoConfig.for_model(model_type, **{**ids, **FAMILIES[model_type], **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    _randomize(model)
    model.save_pretrained(folder)
    write_bpe_tokenizer(folder, VOCAB, adds_bos=model_type in ADDS_BOS)
    generation = folder / "generation_config.json"
    written = json.loads(generation.read_text()) if generation.is_file() else {}
    generation.write_text(json.dumps(written | {"eos_token_id": ends, "bos_token_id": BOS, "pad_token_id": PAD}))
    return folder


_EMBEDDINGS = ("embed_tokens", "embed_positions", "embed_in", "word_embeddings", "wte", "wpe")


def _randomize(model: Any) -> None:
    """Values with which greedy answers vary: sublayers drown the embedding, and nothing is left at its initial 0 or 1.

    Norms of Gemma multiply by 1 + weight, the others by weight."""
    is_gemma = model.config.model_type.startswith("gemma")
    is_tied = bool(model.config.tie_word_embeddings)
    for name, value in model.named_parameters():
        if value.dim() > 1 and any(word in name for word in _EMBEDDINGS):
            torch.nn.init.normal_(value, std=0.1 if is_tied else 0.4)
        elif value.dim() > 1:
            fan_in = value.shape[0] if _is_transposed(model, name) else value.shape[1]
            torch.nn.init.normal_(value, std=1.5 * fan_in**-0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.2)
        else:
            torch.nn.init.normal_(value, mean=0.0 if is_gemma else 1.0, std=0.2)


def _is_transposed(model: Any, name: str) -> bool:
    """GPT-2 keeps [in, out]."""
    return bool(model.config.model_type == "gpt2") and "lm_head" not in name
