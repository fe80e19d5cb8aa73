"""The shape and family rules of one T5 checkpoint, read from its config.json and generation_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid

ACTIVATIONS = {"relu": 0, "gelu_new": 1, "gelu": 2, "silu": 3, "swish": 3}
"""Name in `feed_forward_proj` -> number in t5k.h."""

MODEL_TYPES = ("t5", "mt5", "umt5")


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
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"{path}: expected a readable config.json, got {error}") from error
    generation = folder / "generation_config.json"
    defaults = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    return parse_config(raw, defaults, str(path))


def parse_config(raw: Mapping[str, Any], generation: Mapping[str, Any], where: str) -> T5Config:
    """Build the config from parsed JSON; ids in `generation` win, as in Hugging Face. Raises ModelInvalid."""
    model_type = str(raw.get("model_type", "t5"))
    if model_type not in MODEL_TYPES:
        raise ModelInvalid(f"{where}: model_type: expected one of {MODEL_TYPES}, got {model_type!r}")
    try:
        activation, is_gated = _feed_forward(str(raw.get("feed_forward_proj", "relu")), where)
        layers = int(raw["num_layers"])
        decoder_layers = raw.get("num_decoder_layers")
        return T5Config(
            model_type=model_type,
            vocab=int(raw["vocab_size"]),
            d_model=int(raw["d_model"]),
            d_kv=int(raw["d_kv"]),
            d_ff=int(raw["d_ff"]),
            heads=int(raw["num_heads"]),
            encoder_layers=layers,
            decoder_layers=layers if decoder_layers is None else int(decoder_layers),
            activation=activation,
            is_gated=is_gated,
            eps=float(raw.get("layer_norm_epsilon", 1e-6)),
            buckets=int(raw.get("relative_attention_num_buckets", 32)),
            max_distance=int(raw.get("relative_attention_max_distance", 128)),
            has_layer_bias=model_type == "umt5",
            scales_output=_scales_output(raw, model_type),
            pad_id=_id(raw, generation, "pad_token_id", 0),
            start_id=_id(raw, generation, "decoder_start_token_id", _id(raw, generation, "pad_token_id", 0)),
            eos_ids=_eos_ids(raw, generation),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelInvalid(f"{where}: expected a T5 config, got a bad or missing field: {error}") from error


def _scales_output(raw: Mapping[str, Any], model_type: str) -> bool:
    """Whether the decoder output is scaled before the head: the rule that survives transformers 4 and 5.

    transformers 5 writes `scale_decoder_outputs` and forces `tie_word_embeddings` to true; version 4 wrote only the
    latter. mT5's modelling code never scales. See engines.md 1.2.
    """
    if model_type == "mt5":
        return False
    return bool(raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True)))


def _feed_forward(projection: str, where: str) -> tuple[str, bool]:
    """`gated-gelu` means the tanh form (Hugging Face rewrites it); a bare `gelu` stays erf."""
    if projection == "gated-gelu":
        return "gelu_new", True
    name, is_gated = projection.removeprefix("gated-"), projection.startswith("gated-")
    if name not in ACTIVATIONS:
        raise ModelInvalid(f"{where}: feed_forward_proj: expected one of {sorted(ACTIVATIONS)}, got {projection!r}")
    return name, is_gated


def _id(raw: Mapping[str, Any], generation: Mapping[str, Any], key: str, default: int) -> int:
    for source in (generation, raw):
        if source.get(key) is not None:
            return int(source[key])
    return default


def _eos_ids(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    for source in (generation, raw):
        value = source.get("eos_token_id")
        if value is not None:
            return tuple(int(v) for v in value) if isinstance(value, list) else (int(value),)
    return (1,)
