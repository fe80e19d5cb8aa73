"""The checked local folder of a scenario's model, named by path, hub id, S3 prefix or a published model's shape.

A checked folder holds: config.json of a known kind (`checkpoint/kind.py`), weights whose headers are complete and
whose files have the length the headers promise, every shard of an index, and tokenizer files. The weights' values are
not read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import model_kind, read_config
from engines.models.checkpoint.safetensors_header import stored_tensors
from engines.models.checkpoint.unservable import (
    Shapes,
    check_adapter,
    check_config,
    check_decoder_tensors,
    check_tensors,
)
from engines.models.checkpoint.weight_files import has_weights, weight_files, weight_map
from engines.models.gguf.as_folder import SUFFIX, gguf_file, gguf_folder

TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model")
"""Any one of these makes a folder's tokenizer. ByT5 needs none: its ids are bytes."""

BYT5_CLASS = "ByT5Tokenizer"


def resolve_model(kind: str, value: str, seed: int, cache: Path) -> Path:
    """The checked local folder of a model. `kind`: path | gguf | hub | s3 | shape; `seed` matters to shape only.

    Raises ModelInvalid (missing, damaged, unknown) or Unavailable (no network, no package, no disk).
    """
    if kind == "path":
        folder = Path(value).expanduser()
    elif kind == "gguf":
        folder = gguf_folder(Path(value), cache)
    elif kind == "hub":
        from engines.models.download.hub_and_s3 import download_hub

        folder = download_hub(value)
    elif kind == "s3":
        from engines.models.download.hub_and_s3 import download_s3

        folder = download_s3(value, cache)
    elif kind == "shape":
        from engines.models.random_weights.folders import random_model

        folder = random_model(value, seed, cache)
    else:
        raise ModelInvalid(f"model kind {kind!r}: expected path, gguf, hub, s3 or shape")
    check_model_folder(folder)
    return folder.resolve()


def check_model_folder(path: Path) -> None:
    """Nothing, if `path` can be served; else raises ModelInvalid with the first fault found."""
    if not path.is_dir():
        fault = "is a file" if path.exists() else "does not exist"
        raise ModelInvalid(f"{path}: {fault}; expected a Hugging Face model folder (config.json, weights, tokenizer)")
    files = [] if (path / "config.json").is_file() else sorted(path.glob(f"*{SUFFIX}"))
    if files:
        raise ModelInvalid(f"{path}: holds GGUF files and no config.json; name one of them, such as {files[0]}")
    check_adapter(path, has_weights=has_weights(path))
    config, kind = read_config(path), model_kind(path)
    if kind.gguf_weights:
        gguf_file(path)
        return
    shapes = _check_weights(path, weight_files(path))
    check_config(path, config, has_names=shapes is not None)
    if shapes is not None and kind.is_decoder:
        check_decoder_tensors(path, kind, shapes)
    elif shapes is not None:
        check_tensors(path, config, shapes)
    if not any((path / name).is_file() for name in TOKENIZER_FILES) and not is_byte_tokenizer(path):
        raise ModelInvalid(
            f"{path}: no tokenizer; expected one of {', '.join(TOKENIZER_FILES)}; copy it from the model's source"
        )


def _check_weights(path: Path, files: Sequence[Path]) -> Shapes | None:
    """Name -> shape of the tensors in the safetensors headers; None for a pickle (.bin) checkpoint, whose names need
    torch."""
    if files[0].suffix == ".bin":
        for pickle in files:
            if pickle.stat().st_size < 1024:
                size = pickle.stat().st_size
                raise ModelInvalid(f"{pickle}: only {size} bytes, no checkpoint; download the file again")
        return None
    shapes = {name: tensor.shape for file in files for name, tensor in stored_tensors(file).items()}
    index = path / "model.safetensors.index.json"
    if files[0].name != "model.safetensors":
        lost = sorted(set(weight_map(index)) - set(shapes))
        if lost:
            raise ModelInvalid(f"{index}: tensor {lost[0]!r} is in none of the shards; download the model again")
    return shapes


def is_byte_tokenizer(model_dir: Path) -> bool:
    """Whether the folder declares ByT5's tokenizer, which has no vocabulary file."""
    try:
        config = json.loads((model_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("tokenizer_class") == BYT5_CLASS
