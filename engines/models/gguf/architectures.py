"""The architectures that can be written as GGUF: llama.cpp's name of each, its keys, and how tensors differ there.

Whatever llama.cpp would compute otherwise than Hugging Face is refused here, from config.json, before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import ModelKind

Config = Mapping[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]
Value = int | float | str
_SILU = ("silu", "swish")
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
_GEMMA3_SCALED_BY_HIDDEN = 62
"""Layers of the 27B model, whose attention llama.cpp scales by hidden / heads instead of by head_dim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArchitecture:
    """One `model_type` as llama.cpp knows it. `keys` are written below '<name>.'; `tensor` gives a tensor as it is
    written, from its name in the checkpoint, after those that end in `transposed` were; `why_not` is why this model
    would be computed wrongly, '' where it would not. `has_window`: llama.cpp knows its sliding window."""

    name: str
    keys: Callable[[Config, ModelKind], dict[str, Value]]
    tensor: Callable[[str, Array, Config, ModelKind], Array]
    why_not: Callable[[Config, ModelKind], str]
    transposed: tuple[str, ...] = ()
    has_window: bool = False


def rope(config: Config) -> Mapping[str, Any]:
    """Rotary parameters of layers that see everything, before and since transformers 5."""
    found: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    inner: Mapping[str, Any] = found.get("full_attention", found)
    theta = inner.get("rope_theta", config.get("rope_theta", 10_000.0))
    return {**inner, "rope_theta": theta, "rope_type": inner.get("rope_type", inner.get("type", "default"))}


def rope_factors(config: Config, kind: ModelKind) -> Array | None:
    """Llama 3's scaling as divisors of the rotary frequencies, one per pair; None for a model without it."""
    given = rope(config)
    if given["rope_type"] != "llama3":
        return None
    frequencies = 1.0 / float(given["rope_theta"]) ** (np.arange(0, kind.head_dim, 2, dtype=np.float32) / kind.head_dim)
    factor, low, high = (float(given[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(given["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelengths < context / high, 1.0, np.where(wavelengths > context / low, factor, between))
    return factors.astype(np.float32)


def positions(config: Config, kind: ModelKind) -> int:
    """Tokens of prompt and answer that llama.cpp computes as Hugging Face does: within the window, where it ignores
    the model's window."""
    known = kind.max_positions or 0
    is_seen = kind.sliding_window is None or ARCHITECTURES[kind.model_type].has_window
    return known if is_seen else min(known, kind.sliding_window or known)


def _common(config: Config, kind: ModelKind) -> dict[str, Value]:
    return {
        "context_length": positions(config, kind),
        "embedding_length": kind.hidden,
        "block_count": kind.layers,
        "attention.head_count": kind.heads,
        "attention.head_count_kv": kind.kv_heads,
    }


def _rotary(config: Config, kind: ModelKind) -> dict[str, Value]:
    given = rope(config)
    values: dict[str, Value] = {
        **_common(config, kind),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "attention.key_length": kind.head_dim,
        "attention.value_length": kind.head_dim,
        "rope.dimension_count": kind.head_dim,
        "rope.freq_base": float(given["rope_theta"]),
        "vocab_size": kind.vocab_size,
    }
    if given["rope_type"] == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(given["factor"])}
    return values


def _gemma3(config: Config, kind: ModelKind) -> dict[str, Value]:
    parameters: Mapping[str, Any] = config.get("rope_parameters") or {}
    local: Mapping[str, Any] = parameters.get("sliding_attention") or {}
    return {
        **_rotary(config, kind),
        "attention.sliding_window": kind.sliding_window or kind.max_positions or 0,
        "attention.sliding_window_pattern": _period(config, kind) or kind.layers + 1,
        "rope.freq_base_swa": float(local.get("rope_theta", config.get("rope_local_base_freq", 10_000.0))),
    }


def _period(config: Config, kind: ModelKind) -> int | None:
    """Every how many layers one sees everything; None where the layers follow no such rule."""
    layers = config.get("layer_types")
    if not isinstance(layers, list):
        return int(config.get("sliding_window_pattern") or 6)
    full = [number + 1 for number, name in enumerate(layers) if name == "full_attention"]
    period = full[0] if full else kind.layers + 1
    return period if full == list(range(period, kind.layers + 1, period)) else None


def _gpt2(config: Config, kind: ModelKind) -> dict[str, Value]:
    return {
        **_common(config, kind),
        "feed_forward_length": int(config.get("n_inner") or 4 * kind.hidden),
        "attention.layer_norm_epsilon": float(config.get("layer_norm_epsilon", 1e-5)),
    }


def _as_it_is(name: str, tensor: Array, config: Config, kind: ModelKind) -> Array:
    return tensor


def _llama_tensor(name: str, tensor: Array, config: Config, kind: ModelKind) -> Array:
    """Rows of q and k in the order of rotary pairs (0, 1), (2, 3) ... instead of halves."""
    heads = {"q_proj": kind.heads, "k_proj": kind.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _gemma3_tensor(name: str, tensor: Array, config: Config, kind: ModelKind) -> Array:
    """Its norms multiply by 1 + weight; that of the queries takes the scale that llama.cpp would choose otherwise."""
    if not name.endswith("norm.weight"):
        return tensor
    tensor = tensor + np.float32(1)
    scale = math.sqrt(_gemma3_scaled_by(kind) / float(config.get("query_pre_attn_scalar", 256)))
    return tensor * np.float32(scale) if name.endswith("q_norm.weight") else tensor


def _gemma3_scaled_by(kind: ModelKind) -> int:
    return kind.hidden // kind.heads if kind.layers == _GEMMA3_SCALED_BY_HIDDEN else kind.head_dim


def _why_not_rotary(config: Config, kind: ModelKind) -> str:
    word = str(rope(config)["rope_type"])
    if word not in ("default", "linear", "llama3"):
        return f"its rotary scaling {word!r} cannot be written as GGUF here"
    if config.get("hidden_act", "silu") not in _SILU:
        return f"llama.cpp computes it with silu, config.json has {config['hidden_act']!r}"
    if float(rope(config).get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0) != 1.0:
        return "only a part of each head is rotated, which llama.cpp's architecture of the same name does not do"
    return ""


def _why_not_gpt2(config: Config, kind: ModelKind) -> str:
    if config.get("activation_function", "gelu_new") not in _TANH_GELU:
        return f"llama.cpp computes it with gelu_new, config.json has {config['activation_function']!r}"
    odd = [key for key in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn") if config.get(key)]
    return f"llama.cpp has no {odd[0]}" if odd else ""


def _why_not_gemma3(config: Config, kind: ModelKind) -> str:
    word = str(rope(config)["rope_type"])
    capped = [key for key in ("final_logit_softcapping", "attn_logit_softcapping") if config.get(key)]
    if word not in ("default", "linear"):
        return f"its rotary scaling {word!r} cannot be written as GGUF here"
    if capped:
        return f"llama.cpp's Gemma 3 has no {capped[0]}"
    if config.get("hidden_activation", "gelu_pytorch_tanh") not in _TANH_GELU:
        return f"llama.cpp computes it with gelu_pytorch_tanh, config.json has {config['hidden_activation']!r}"
    if config.get("use_bidirectional_attention"):
        return "its attention looks both ways"
    return "" if _period(config, kind) else "its windowed layers follow no fixed period, and llama.cpp's do"


_LLAMA = GgufArchitecture(name="llama", keys=_rotary, tensor=_llama_tensor, why_not=_why_not_rotary)

ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": GgufArchitecture(name="qwen2", keys=_rotary, tensor=_as_it_is, why_not=_why_not_rotary),
    "qwen3": GgufArchitecture(name="qwen3", keys=_rotary, tensor=_as_it_is, why_not=_why_not_rotary),
    "gpt2": GgufArchitecture(
        name="gpt2",
        keys=_gpt2,
        tensor=_as_it_is,
        why_not=_why_not_gpt2,
        transposed=(".c_attn.weight", ".c_proj.weight", ".c_fc.weight"),  # its Conv1D holds them the other way round
    ),
    "gemma3_text": GgufArchitecture(
        name="gemma3", keys=_gemma3, tensor=_gemma3_tensor, why_not=_why_not_gemma3, has_window=True
    ),
}
"""config.json's model_type -> how it is written."""


def architecture(config: Config, kind: ModelKind) -> GgufArchitecture:
    """How this model is written. Raises ModelInvalid where llama.cpp would compute it otherwise."""
    found = ARCHITECTURES.get(kind.model_type)
    if found is None:
        raise ModelInvalid(f"{kind.model_type} cannot be written as GGUF here; these can: {', '.join(ARCHITECTURES)}")
    if because := found.why_not(config, kind):
        raise ModelInvalid(f"{kind.model_type} cannot be written as GGUF: {because}")
    return found
