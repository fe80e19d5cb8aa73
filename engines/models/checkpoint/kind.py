"""The kind of model that a folder holds: encoder-decoder or decoder-only, and its sizes, from config.json alone.

Field names differ between families and real files leave out what their family's class in transformers fills in, so a
table gives each `model_type` its defaults. Nothing here reads weights or imports a model library.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid

SEQ2SEQ, DECODER = "seq2seq", "decoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKind:
    """One model's architecture. `name` is SEQ2SEQ or DECODER; T5's sizes are those of its decoder.

    `max_positions`: tokens of prompt and answer together, None where positions are relative (T5, BLOOM).
    `sliding_window`: tokens that a windowed layer looks back, None where every layer sees all.
    `rope_type`: 'llama3', 'longrope' and so on; '' for plain rotary positions or none. `rope_switch`: the length above
    which longrope turns to its long factors. `has_soft_caps`: logits or attention scores are bent by a tanh (Gemma 2).
    `dtype`: as config.json states the checkpoint's ('fp32', 'bf16', 'fp16'), '' where it does not. `gguf_weights`: the
    type of most weights of a GGUF file, '' for any other model.
    """

    name: str
    model_type: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab_size: int
    max_positions: int | None = None
    sliding_window: int | None = None
    rope_type: str = ""
    rope_switch: int | None = None
    has_soft_caps: bool = False
    dtype: str = ""
    is_tied: bool = False
    has_chat_template: bool = False
    gguf_weights: str = ""

    @property
    def is_decoder(self) -> bool:
        """Whether the prompt and the answer share one decoder-only stack."""
        return self.name == DECODER

    @property
    def bounds(self) -> Mapping[str, int]:
        """Traits that act on requests with more tokens of prompt and answer than this."""
        found = {"sliding_window": self.sliding_window, "rope_longrope": self.rope_switch}
        return {word: bound for word, bound in found.items() if bound is not None}

    @property
    def traits(self) -> tuple[str, ...]:
        """What it has beyond the plain architecture, as words that an engine's `reasons` may refuse."""
        found = {
            "sliding_window": self.sliding_window is not None,
            f"rope_{self.rope_type}": self.rope_type != "",
            "soft_caps": self.has_soft_caps,
            "head_dim": self.is_decoder and self.head_dim * self.heads != self.hidden,
            "grouped_heads": self.kv_heads != self.heads,
        }
        return tuple(word for word, holds in found.items() if holds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """One `model_type`: what its class fills in, and how its input embedding is called (the end of the name)."""

    name: str = DECODER
    embeddings: tuple[str, ...] = ("embed_tokens.weight",)
    has_positions: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)


_T5 = _Family(
    name=SEQ2SEQ,
    embeddings=(),  # its tables have several names (unservable.py)
    has_positions=False,
    defaults={
        "d_model": 512,
        "num_layers": 6,
        "num_heads": 8,
        "d_kv": 64,
        "vocab_size": 32128,
        "tie_word_embeddings": True,
    },
)
_TIED: Mapping[str, Any] = {"tie_word_embeddings": True}
_GEMMA: Mapping[str, Any] = {**_TIED, "head_dim": 256, "max_position_embeddings": 8192}
_GEMMA3 = _Family(
    defaults={
        **_GEMMA,
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    }
)

_FAMILIES: Mapping[str, _Family] = {
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "gpt2": _Family(embeddings=("wte.weight",), defaults=_TIED),
    "opt": _Family(defaults=_TIED),
    "bloom": _Family(embeddings=("word_embeddings.weight",), has_positions=False, defaults=_TIED),
    "gptj": _Family(embeddings=("wte.weight",)),
    "gpt_neox": _Family(embeddings=("embed_in.weight",)),
    "llama": _Family(),
    "mistral": _Family(defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": _Family(),
    "qwen3": _Family(defaults={"head_dim": 128}),
    "phi": _Family(),
    "phi3": _Family(),
    "gemma": _Family(defaults=_GEMMA),
    "gemma2": _Family(
        defaults={**_GEMMA, "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    ),
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
}

SEQ2SEQ_TYPES = tuple(name for name, family in _FAMILIES.items() if family.name == SEQ2SEQ)
DECODER_TYPES = tuple(name for name, family in _FAMILIES.items() if family.name == DECODER)
"""config.json model_type values that are known (FLAN, UL2 and ByT5 declare t5)."""

_NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_decoder_layers", "num_layers", "num_hidden_layers", "n_layer"),
    "heads": ("num_heads", "num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("d_kv", "head_dim"),
    "hidden": ("d_model", "hidden_size", "n_embd", "n_embed"),
    "vocab_size": ("vocab_size",),
    "max_positions": ("max_position_embeddings", "n_positions"),
}
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_NO_SCALING = ("default", "none", "")


def model_kind(path: Path) -> ModelKind:
    """The kind of the model in a folder. Raises ModelInvalid."""
    return kind_of(read_config(path), path)


def holds_decoder(path: Path) -> bool:
    """Whether the folder is there and holds a decoder-only model; a damaged one is refused where it is used."""
    try:
        return model_kind(path).is_decoder
    except ModelInvalid:
        return False


def kind_of(config: Mapping[str, Any], path: Path) -> ModelKind:
    """The kind that a config.json describes; `path`, its folder, is for messages and the chat template."""
    model_type = config["model_type"]
    family = _FAMILIES[model_type]
    given = {**config, **text_config(config)}
    values = {**family.defaults, **{name: value for name, value in given.items() if value is not None}}
    if "sliding_window" in given and given["sliding_window"] is None:  # elsewhere null means the default, here none
        values["sliding_window"] = None
    sizes = {name: _size(path, values, names) for name, names in _NAMES.items()}
    heads, hidden = _needed(path, sizes, "heads"), _needed(path, sizes, "hidden")
    kv_heads = sizes["kv_heads"] or heads
    if heads % kv_heads:
        raise ModelInvalid(
            f"{path / 'config.json'}: {heads} heads cannot share {kv_heads} key-value heads; copy it from its source"
        )
    scaling = _rope(values)
    return ModelKind(
        name=family.name,
        model_type=model_type,
        layers=_needed(path, sizes, "layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=sizes["head_dim"] or hidden // heads,
        hidden=hidden,
        vocab_size=_needed(path, sizes, "vocab_size"),
        max_positions=_needed(path, sizes, "max_positions") if family.has_positions else None,
        sliding_window=_window(values),
        rope_type="" if scaling in _NO_SCALING else scaling,
        rope_switch=_rope_switch(values) if scaling == "longrope" else None,
        has_soft_caps=any(values.get(name) for name in ("attn_logit_softcapping", "final_logit_softcapping")),
        dtype=_dtype(values),
        is_tied=bool(values.get("tie_word_embeddings", False)),
        has_chat_template=bool(template_text(path)),
        gguf_weights=str(config.get("gguf_weights", "")),
    )


def why_too_long(prompt_tokens: int, new_tokens: int, max_positions: int | None) -> str:
    """Why a context of `max_positions` cannot hold a prompt and its answer; '' when it can, or has no limit."""
    total = prompt_tokens + new_tokens
    if max_positions is None or total <= max_positions:
        return ""
    return (
        f"the prompt's {prompt_tokens} tokens and max_new_tokens {new_tokens} make {total}, the model's context holds "
        f"{max_positions}; shorten the prompt or lower max_new_tokens"
    )


def why_beyond(library: str, kind: ModelKind, tokens: int, left_out: Collection[str]) -> str:
    """Why a library that leaves these traits out cannot compute so many tokens of prompt and answer; '' when it can."""
    limit, word = min(((bound, word) for word, bound in kind.bounds.items() if word in left_out), default=(tokens, ""))
    if tokens <= limit:
        return ""
    what = "the model's window" if word == "sliding_window" else "where the model's rotary positions change"
    return f"prompt and answer make {tokens} tokens; beyond {limit}, {what}, {library} would give other answers"


def embedding_names(model_type: str) -> tuple[str, ...]:
    """How the input embedding of such a model is called; published files may have a prefix before it."""
    return _FAMILIES[model_type].embeddings


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a folder whose model_type is known. Raises ModelInvalid."""
    config = read_json(path / "config.json", "copy it from the model's source")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        raise ModelInvalid(
            f"{path / 'config.json'}: model_type is {model_type!r:.80}, expected one of {', '.join(_FAMILIES)}; "
            "no engine here serves another"
        )
    return config


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config that describes more than one (Gemma 3)."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else {}


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The object in a JSON file of a model folder. Raises ModelInvalid that ends in `advice`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelInvalid(f"{path.parent}: {path.name} is missing; {advice}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path}: not readable as JSON ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise ModelInvalid(f"{path}: expected a JSON object, got {type(content).__name__}; {advice}")
    return content


def _size(path: Path, values: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = values.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelInvalid(
                f"{path / 'config.json'}: {name} is {value!r}, expected a whole number, 1 or more; "
                "copy it from the model's source"
            )
        return value
    return None


def _needed(path: Path, sizes: Mapping[str, int | None], name: str) -> int:
    value = sizes[name]
    if value is None:
        raise ModelInvalid(
            f"{path / 'config.json'}: expected one of {', '.join(_NAMES[name])}, got none; "
            "copy it from the model's source"
        )
    return value


def _dtype(values: Mapping[str, Any]) -> str:
    stated = str(values.get("dtype", values.get("torch_dtype", ""))).removeprefix("torch.")
    return stated if values.get("gguf_weights") else _DTYPES.get(stated, "")


def _window(values: Mapping[str, Any]) -> int | None:
    window = values.get("sliding_window")
    is_used = values.get("use_sliding_window", not str(values["model_type"]).startswith("qwen"))
    return window if is_used and isinstance(window, int) else None


def _rope(values: Mapping[str, Any]) -> str:
    """The word for how rotary positions are scaled; before and since transformers 5, and Gemma 3's by layer."""
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    inner = scaling.get("full_attention") if isinstance(scaling, dict) else None
    scaling = inner if isinstance(inner, dict) else scaling
    word = str(scaling.get("rope_type", scaling.get("type", ""))) if isinstance(scaling, dict) else ""
    return "longrope" if word == "su" else word


def _rope_switch(values: Mapping[str, Any]) -> int | None:
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    found = scaling.get("original_max_position_embeddings") or values.get("original_max_position_embeddings")
    return int(found) if found else None


def template_text(path: Path) -> str:
    """The folder's chat template, '' where it has none: chat_template.jinja, else an entry of a JSON file. Of several
    named ones it is the one named 'default'."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        given = json_entries(path / name).get("chat_template")
        if isinstance(given, list):
            named = [each for each in given if isinstance(each, dict) and each.get("name") == "default"]
            given = named[0].get("template") if named else None
        if given and isinstance(given, str):
            return given
    return ""


def json_entries(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}
