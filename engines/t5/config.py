"""The configuration of one T5 checkpoint: shape and family rules, from config.json and generation_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid

ACTIVATIONS = {"relu": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu": 2, "silu": 3, "swish": 3}
"""Name in `feed_forward_proj` or `dense_act_fn` -> number in t5k.h."""

MODEL_TYPES = ("t5", "mt5", "umt5")

# What the library takes (check_config in kernels/model/weights.cpp), checked here before a plan is made of it.
_MOST = {
    "vocab_size": 1 << 24, "d_model": 1 << 17, "d_kv": 1 << 12, "d_ff": 1 << 17, "num_heads": 1 << 10,
    "num_layers": 1 << 10, "num_decoder_layers": 1 << 10, "relative_attention_num_buckets": 1 << 16,
    "relative_attention_max_distance": 1 << 20,
}  # fmt: skip
_LEAST = {"vocab_size": 2, "num_decoder_layers": 0, "relative_attention_num_buckets": 4}
_MOST_EOS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Config:
    """What the engine needs to know of a model. Letters as everywhere: E d_model, F d_ff, H heads, D d_kv, V vocab."""

    model_type: str
    vocab: int
    d_model: int
    d_kv: int
    d_ff: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    activation: str
    is_gated: bool
    eps: float
    buckets: int
    max_distance: int
    has_layer_bias: bool
    scales_output: bool
    has_own_head: bool
    pad_id: int
    start_id: int
    eos_ids: tuple[int, ...]

    @property
    def inner(self) -> int:
        """H * D; differs from d_model in half of the family."""
        return self.heads * self.d_kv

    @property
    def head_scale(self) -> float:
        """What the decoder's last norm is multiplied by: d_model^-0.5 with a tied head (T5 1.0), else 1."""
        return float(self.d_model**-0.5) if self.scales_output else 1.0


def read_config(folder: Path) -> T5Config:
    """The config of a Hugging Face folder. Raises ModelInvalid with the file and the field."""
    path, generation = folder / "config.json", folder / "generation_config.json"
    defaults = _read_json(generation) if generation.is_file() else {}
    return parse_config(_read_json(path), defaults, str(path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path}: expected a readable {path.name}, got {error}") from error
    if not isinstance(raw, dict):
        raise ModelInvalid(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return raw


def parse_config(raw: Mapping[str, Any], generation: Mapping[str, Any], where: str) -> T5Config:
    """Build the config from parsed JSON; ids in `generation` win, as in Hugging Face. Raises ModelInvalid."""
    model_type = str(raw.get("model_type", "t5"))
    if model_type not in MODEL_TYPES:
        raise ModelInvalid(f"{where}: model_type: expected one of {MODEL_TYPES}, got {model_type!r}")
    activation, is_gated = _feed_forward(raw, model_type, where)
    try:
        layers = _size(raw, "num_layers")
        vocab = _size(raw, "vocab_size")
        buckets = _size(raw, "relative_attention_num_buckets", 32)
        distance = _size(raw, "relative_attention_max_distance", 128)
        if distance <= buckets // 2:
            raise ValueError(f"relative_attention_max_distance: expected more than {buckets // 2}, got {distance}")
        return T5Config(
            model_type=model_type,
            vocab=vocab,
            d_model=_size(raw, "d_model"),
            d_kv=_size(raw, "d_kv"),
            d_ff=_size(raw, "d_ff"),
            heads=_size(raw, "num_heads"),
            encoder_layers=layers,
            decoder_layers=_size(raw, "num_decoder_layers", layers),
            activation=activation,
            is_gated=is_gated,
            eps=_epsilon(raw),
            buckets=buckets,
            max_distance=distance,
            has_layer_bias=model_type == "umt5",
            scales_output=_scales_output(raw, model_type),
            has_own_head=raw.get("tie_word_embeddings") is False,
            pad_id=_id(raw, generation, "pad_token_id", 0),
            start_id=_start_id(raw, generation, vocab),
            eos_ids=_eos_ids(raw, generation, vocab),
        )
    except KeyError as error:
        raise ModelInvalid(f"{where}: expected a T5 config, field {error} is missing") from error
    except ValueError as error:
        raise ModelInvalid(f"{where}: {error}") from error


def _size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number within the library's limits; absent or null: `default`. Raises KeyError, ValueError."""
    value = raw.get(key)
    if value is None:
        if default is None:
            raise KeyError(key)
        value = default
    least, most = _LEAST.get(key, 1), _MOST[key]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{key}: expected a whole number from {least} to {most}, got {value!r}")
    return value


def _epsilon(raw: Mapping[str, Any]) -> float:
    value = raw.get("layer_norm_epsilon", 1e-6)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"layer_norm_epsilon: expected a number from 0 to 1, got {value!r}")
    return float(value)


def _scales_output(raw: Mapping[str, Any], model_type: str) -> bool:
    """Whether the decoder output is scaled before the head: the rule that survives transformers 4 and 5.

    transformers 5 writes `scale_decoder_outputs` and forces `tie_word_embeddings` to true; version 4 wrote only the
    latter. mT5's modelling code never scales. See engines.md 1.2.
    """
    if model_type == "mt5":
        return False
    key = "scale_decoder_outputs" if "scale_decoder_outputs" in raw else "tie_word_embeddings"
    value = raw.get(key, True)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key}: expected true or false, got {value!r}")
    return bool(value)


def _feed_forward(raw: Mapping[str, Any], model_type: str, where: str) -> tuple[str, bool]:
    """Activation and whether it is gated. `gated-gelu` means the tanh form (Hugging Face rewrites it); a bare `gelu`
    stays erf. `dense_act_fn` and `is_gated_act` are what Hugging Face derives, and win where a file has them."""
    projection = str(raw.get("feed_forward_proj") or ("relu" if model_type == "t5" else "gated-gelu"))
    is_gated = projection.startswith("gated-")
    name = "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-")
    given, gated = raw.get("dense_act_fn"), raw.get("is_gated_act")
    for field, value in (("feed_forward_proj", name), ("dense_act_fn", name if given is None else str(given))):
        if value not in ACTIVATIONS:
            raise ModelInvalid(f"{where}: {field}: expected one of {sorted(ACTIVATIONS)}, got {value!r}")
    return (name if given is None else str(given)), is_gated if gated is None else bool(gated)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _id(raw: Mapping[str, Any], generation: Mapping[str, Any], key: str, default: int) -> int:
    for source in (generation, raw):
        value = source.get(key)
        if value is not None:
            if not _is_id(value):
                raise ValueError(f"{key}: expected a token id, got {value!r}")
            return int(value)
    return default


def _start_id(raw: Mapping[str, Any], generation: Mapping[str, Any], vocab: int) -> int:
    key = "decoder_start_token_id"
    start = _id(raw, generation, key, _id(raw, generation, "pad_token_id", 0))
    if not 0 <= start < vocab:
        raise ValueError(f"{key} (else pad_token_id): expected 0 to {vocab - 1}, got {start}")
    return start


def _eos_ids(raw: Mapping[str, Any], generation: Mapping[str, Any], vocab: int) -> tuple[int, ...]:
    for source in (generation, raw):
        value = source.get("eos_token_id")
        if value is not None:
            ids = value if isinstance(value, list) else [value]
            ids = list(dict.fromkeys(ids)) if all(_is_id(number) for number in ids) else []
            ids = [number for number in ids if number < vocab]  # no such token can be chosen
            if not 1 <= len(ids) <= _MOST_EOS:
                raise ValueError(
                    f"eos_token_id: expected a token id or 1 to {_MOST_EOS} of them below {vocab} (the other engines "
                    f"take more), got {value!r}"
                )
            return tuple(ids)
    return (1,)
