"""A GGUF file as a model: a folder that states in Hugging Face's files what the file's metadata does, and a link to it.

So whatever reads a model folder (kind, context, token counts, chat template) reads a GGUF file too. Only an engine that
`reads_gguf` can serve it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid
from engines.models.cache import build_once
from engines.models.gguf.header import GgufHeader, read_header
from engines.models.gguf.tokenizer import tokenizer_json

SUFFIX = ".gguf"
FILE = "model.gguf"
"""The link's name in the folder."""
VERSION = 2
"""Part of the cache key: raise it when what is written changes."""

MODEL_TYPES: Mapping[str, str] = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2", "gemma": "gemma", "gemma2": "gemma2",
    "gemma3": "gemma3_text", "phi2": "phi", "phi3": "phi3", "bloom": "bloom", "gptneox": "gpt_neox",
}  # fmt: skip
"""llama.cpp's name of an architecture -> config.json's; a Mistral calls itself llama there."""

_DTYPES: Mapping[str, str] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_EIGHT_BITS = ("q8_0", "q6_k")
_ENDS = ("eos", "eot", "eom")


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file, there or not."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def gguf_folder(path: Path, cache: Path) -> Path:
    """The folder that stands for the GGUF file `path`, written once. Raises ModelInvalid."""
    try:
        found = path.expanduser().resolve(strict=True)
        stat = found.stat()
    except OSError as error:
        raise ModelInvalid(f"{path}: {error.strerror}; expected a GGUF file") from error
    key = hashlib.sha256(f"{found}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    return build_once(cache / "gguf-files" / f"{key}-v{VERSION}" / found.stem, lambda folder: _write(found, folder))


def gguf_file(model_dir: Path) -> Path:
    """The file that such a folder stands for. Raises ModelInvalid where it is no longer there."""
    try:
        return (model_dir / FILE).resolve(strict=True)
    except OSError as error:
        raise ModelInvalid(f"{(model_dir / FILE).readlink()}: {error.strerror}; it was there before") from error


def _write(path: Path, folder: Path) -> None:
    header = read_header(path)
    config = _config(path, header)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (tokenizer := tokenizer_json(header.values)) is not None:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    if template := header.values.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(str(template), encoding="utf-8")
    (folder / FILE).symlink_to(path)


def _config(path: Path, header: GgufHeader) -> dict[str, Any]:
    values = header.values
    name = str(values.get("general.architecture"))
    if name not in MODEL_TYPES:
        raise ModelInvalid(
            f"{path}: general.architecture is {name!r}, expected one of {', '.join(MODEL_TYPES)}; attach a server that "
            "serves it"
        )
    tokens = values.get("tokenizer.ggml.tokens") or ()
    ends = [values[key] for end in _ENDS if (key := f"tokenizer.ggml.{end}_token_id") in values]
    if not ends:
        raise ModelInvalid(
            f"{path}: expected tokenizer.ggml.eos_token_id in its metadata, the token that ends an answer"
        )
    found = {
        "model_type": MODEL_TYPES[name],
        "num_hidden_layers": values.get(f"{name}.block_count"),
        "num_attention_heads": _largest(values.get(f"{name}.attention.head_count")),
        "num_key_value_heads": _largest(values.get(f"{name}.attention.head_count_kv")),
        "head_dim": values.get(f"{name}.attention.key_length"),
        "hidden_size": values.get(f"{name}.embedding_length"),
        "max_position_embeddings": values.get(f"{name}.context_length"),
        "vocab_size": values.get(f"{name}.vocab_size") or len(tokens) or None,
        "sliding_window": values.get(f"{name}.attention.sliding_window"),
        "eos_token_id": list(dict.fromkeys(ends)) or None,
        "bos_token_id": values.get("tokenizer.ggml.bos_token_id"),
        "pad_token_id": values.get("tokenizer.ggml.padding_token_id"),
        "gguf_weights": header.weights,
        "dtype": dtype_of(header.weights),
    }
    return {key: value for key, value in found.items() if value is not None or key == "sliding_window"}


def dtype_of(weights: str) -> str:
    """The word of the dtype axis for weights of a GGUF type; between 8 and 4 bits the nearer one."""
    return _DTYPES.get(weights) or ("int8" if weights in _EIGHT_BITS else "int4")


def _largest(heads: Any) -> Any:
    """A layer's heads; some files list them by layer."""
    return max(heads, default=None) if isinstance(heads, list) else heads
