"""The weight files of a model folder, in Hugging Face's order, and a sentence for weights of another make."""

from __future__ import annotations

import json
import re
from pathlib import Path

from engines.errors import ModelInvalid

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
"""Each may be cut into shards named by an index; a whole file wins over an index, safetensors over .bin."""

_OF_ANOTHER_MAKE = {
    "*.h5": "weights of TensorFlow; save them as PyTorch's with transformers 4 (from_pretrained(..., from_tf=True))",
    "*.msgpack": "weights of Flax; save them as PyTorch's with transformers 4 (from_pretrained(..., from_flax=True))",
    "model.*.safetensors": "a variant; download or copy it as model.safetensors",
    "pytorch_model.*.bin": "a variant; download or copy it as pytorch_model.bin",
    "*.gguf": "a GGUF file, which is no Hugging Face model folder",
    "pytorch_model-*.bin": "a shard without its index; download the model again",
    "model-*.safetensors": "a shard without its index; download the model again",
}


def has_weights(folder: Path) -> bool:
    """Whether the folder holds a model's weights, whole or as an index."""
    return any((folder / f"{name}{end}").is_file() for name in SINGLE_FILES for end in ("", ".index.json"))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The file with the weights, or every shard of them. Raises ModelInvalid where there is none or one is missing."""
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    for pattern, what in _OF_ANOTHER_MAKE.items():
        for found in sorted(folder.glob(pattern)):
            raise ModelInvalid(f"{folder}: no weights that are read here; {found.name} is {what}")
    raise ModelInvalid(
        f"{folder}: no weights; expected model.safetensors or pytorch_model.bin, or an index with its shards; download "
        "the model again"
    )


def weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard, as an index names them. Raises ModelInvalid."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not found or not isinstance(found, dict):
            raise ValueError("none")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelInvalid(
            f"{index}: expected a 'weight_map' of tensor name to file, got {error!r}; download the model again"
        ) from error
    return {str(name): str(file) for name, file in found.items()}


def _shards(index: Path) -> tuple[Path, ...]:
    names = sorted(set(weight_map(index).values()))
    missing = [name for name in names if not _is_inside(name) or not (index.parent / name).is_file()]
    if missing:
        raise ModelInvalid(
            f"{index.parent}: {len(missing)} of {len(names)} shards named by {index.name} are missing (first: "
            f"{missing[0]}); download the model again"
        )
    return tuple(index.parent / name for name in names)


def _is_inside(name: str) -> bool:
    """Whether an index entry is a plain file name, so that a crafted index cannot read outside the folder."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
