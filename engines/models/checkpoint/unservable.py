"""Folders that look like a T5 model and cannot be served as they are: one sentence each, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import ModelKind, embedding_names

ADAPTER_CONFIG = "adapter_config.json"
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""One table under three names; published folders hold one of them or all."""

Shapes = Mapping[str, tuple[int, ...]]

_WITHOUT_TEXT = ("EncoderModel", "Classification", "QuestionAnswering")
"""Endings of the names in `architectures` whose weights cannot generate."""


def check_adapter(folder: Path, *, has_weights: bool) -> None:
    """Raises ModelInvalid for a folder that holds an adapter (LoRA and the like) and no model."""
    if has_weights or not (folder / ADAPTER_CONFIG).is_file():
        return
    raise ModelInvalid(
        f"{folder}: an adapter of {base_of(folder)}: merge it into that model (peft: merge_and_unload, then "
        "save_pretrained) and name the merged folder"
    )


def base_of(folder: Path) -> str:
    """The model that an adapter's folder names as its base."""
    try:
        base = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "an unnamed model"
    return str(base)


def adapter_notes(folder: Path) -> tuple[str, ...]:
    """Sentences for a report about an adapter among the model's own files."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return ()
    return (f"{ADAPTER_CONFIG}: the adapter beside the weights is not applied; merge it to serve it",)


def check_config(folder: Path, config: Mapping[str, Any], *, has_names: bool) -> None:
    """Raises ModelInvalid for quantized weights, and, without tensor names to judge by (`has_names`), for a class of
    model that does not generate text."""
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "unknown means") if isinstance(quantized, dict) else quantized
        raise ModelInvalid(
            f"{folder}: its weights are quantized by {method}, which no engine here reads; name the folder that it was "
            "made from and choose a dtype"
        )
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    if not has_names and name.endswith(_WITHOUT_TEXT):
        raise ModelInvalid(_no_text(folder, name))


def check_tensors(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raises ModelInvalid where the tensors are not those of an encoder and a decoder of the config's sizes."""
    embeddings = [name for name in EMBEDDINGS if name in shapes]
    if not embeddings:
        inner = next((name for name in shapes if name.endswith(EMBEDDINGS)), "")
        classes = config.get("architectures") or [""]
        of_class = f" ({classes[0]})" if inner and str(classes[0]) else ""
        found = f"its name here is {inner!r}{of_class}: save the inner model" if inner else "download the model again"
        raise ModelInvalid(
            f"{folder}: the weights hold no 'shared.weight'; expected those of a {config['model_type']} model; {found}"
        )
    if not any(name.startswith("decoder.block.") for name in shapes):
        raise ModelInvalid(_no_text(folder, "encoder only"))
    if "lm_head.weight" not in shapes and config.get("tie_word_embeddings") is False:
        raise ModelInvalid(lost_head(folder))
    for name in (*embeddings, *(["lm_head.weight"] if "lm_head.weight" in shapes else [])):
        wanted = tuple(config.get(key, 0) for key in ("vocab_size", "d_model"))
        if all(wanted) and shapes[name] != wanted:
            raise ModelInvalid(
                f"{folder}: {name} has the shape {shapes[name]}, config.json states vocab_size {wanted[0]} and d_model "
                f"{wanted[1]}; were the embeddings resized? Correct config.json"
            )


def check_decoder_tensors(folder: Path, kind: ModelKind, shapes: Shapes) -> None:
    """Raises ModelInvalid where the tensors are not those of a decoder-only model of the config's sizes."""
    ends = embedding_names(kind.model_type)
    name = next((name for name in shapes if name.endswith(ends)), None)
    if name is None:
        raise ModelInvalid(f"{folder}: the weights hold no {ends[0]!r}; expected those of a {kind.model_type} model")
    if shapes[name][0] != kind.vocab_size:
        raise ModelInvalid(
            f"{folder}: {name} has the shape {shapes[name]}, config.json states vocab_size {kind.vocab_size}; were the "
            "embeddings resized? Correct config.json"
        )


def lost_head(folder: Path) -> str:
    """The sentence for a head that is its own and not in the files: tying it instead would give wrong numbers."""
    return (
        f"{folder}: config.json states tie_word_embeddings false, and the weights hold no 'lm_head.weight'; "
        "download the model again"
    )


def _no_text(folder: Path, what: str) -> str:
    about = "an encoder only" if what.endswith(("EncoderModel", "encoder only")) else f"a {what}"
    return f"{folder}: {about}, which generates no text; name a model with a decoder and a head"
