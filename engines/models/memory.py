"""The memory that a model needs by its kind: weights, keys and values, activations. Arithmetic, not a measurement.

Weights are counted in safetensors headers, or from the tensors of a published shape. tests/engines/models/
test_memory.py holds the sum against a real process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import ModelKind, kind_of, model_kind, read_config, text_config
from engines.models.checkpoint.safetensors_header import stored_tensors
from engines.models.checkpoint.weight_files import weight_files
from engines.models.random_weights.shapes import SHAPES

VALUE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0625, "int4": 0.5625}
"""Of one weight; integers with a 16-bit scale for each block of 32, as llama.cpp stores them."""
PROCESS_BYTES = 400e6
"""A Python process with torch and transformers, beside the sum: 0.39 GB were resident beside smollm2-135m."""
_QUANTIZED = ("awq", "gptq", "fp8", "fp4", "nf4", "int4", "int8", "4bit", "8bit", "bnb", "w4a", "w8a", "gguf")
"""How the names of published checkpoints state fewer bits than their shape's."""
_LAYERS_A_WINDOW = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6}
"""Layers among which one sees everything and the others a window."""

_TABLES = ("wpe.weight", "embed_positions.weight")
"""Looked up row by row in every model."""
_TIED_TABLES = ("embed_tokens.weight", "shared.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
"""Looked up row by row where the head has weights beside them, and else the head itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """A model's kind and how many weights it has."""

    kind: ModelKind
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is computed at once: `rows` requests of so many tokens, on `degree` devices."""

    dtype: str
    rows: int
    prompt_tokens: int
    new_tokens: int
    degree: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes on each device, and the arithmetic of the keys and values in words."""

    weights_bytes: float
    kv_bytes: float
    activation_bytes: float
    kv_text: str

    @property
    def total_bytes(self) -> float:
        return self.weights_bytes + self.kv_bytes + self.activation_bytes

    def explain(self) -> str:
        """The sum in one line."""
        return (
            f"weights {_gb(self.weights_bytes)} + keys and values {_gb(self.kv_bytes)} ({self.kv_text}) + activations "
            f"{_gb(self.activation_bytes)} = {_gb(self.total_bytes)} GB"
        )


def folder_size(folder: Path) -> ModelSize | None:
    """The size of a model folder; None where its weights have no safetensors headers. Raises ModelInvalid."""
    files = weight_files(folder)
    if any(file.suffix != ".safetensors" for file in files):
        return None
    shapes = (tensor.shape for file in files for tensor in stored_tensors(file).values())
    return ModelSize(kind=model_kind(folder), parameters=_count(shapes))


def step_bytes(folder: Path, dtype: str) -> float | None:
    """Bytes of weights that each step of an answer reads at least: the decoder's and the head's, without the table of
    which a step takes a row, and the cross attention's keys and values, which a prompt is multiplied by once. None
    where they are not known: no safetensors headers, another dtype. Raises ModelInvalid."""
    files = weight_files(folder)
    if dtype not in VALUE_BYTES or any(file.suffix != ".safetensors" for file in files):
        return None
    shapes = {name: tensor.shape for file in files for name, tensor in stored_tensors(file).items()}
    has_head = any(name.endswith("lm_head.weight") for name in shapes)
    read = (shape for name, shape in shapes.items() if not _is_skipped(name, has_head=has_head))
    return _count(read) * VALUE_BYTES[dtype]


def _is_skipped(name: str, *, has_head: bool) -> bool:
    is_table = name.endswith(_TABLES) or (has_head and name.endswith(_TIED_TABLES))
    return is_table or name.startswith("encoder.") or ".EncDecAttention.k." in name or ".EncDecAttention.v." in name


def shape_size(name: str) -> ModelSize:
    """The size of a published shape."""
    shape = SHAPES[name]
    kind = kind_of(shape.config(), Path(name))
    return ModelSize(kind=kind, parameters=_count(tensor.shape for tensor in shape.tensors()))


def shape_of_hub_id(hub_id: str) -> str | None:
    """The published shape that a hub id names, such as llama-3.1-8b for meta-llama/Llama-3.1-8B-Instruct; the longest
    that its name without that word begins with, None where there is none."""
    name = hub_id.rpartition("/")[2].lower().replace("-instruct", "")
    fitting = [shape for shape in SHAPES if name == shape or name.startswith(f"{shape}-")]
    return max(fitting, key=len, default=None)


def is_quantized_hub_id(hub_id: str) -> bool:
    """Whether a hub id's name states that its weights are stored in fewer bits, such as Llama-3.1-8B-Instruct-AWQ."""
    name = hub_id.rpartition("/")[2].lower()
    return any(word in name for word in _QUANTIZED)


def is_quantized_folder(folder: Path) -> bool:
    """Whether config.json states that the weights are stored in fewer bits. Raises ModelInvalid."""
    config = read_config(folder)
    return any(each.get("quantization_config") for each in (config, text_config(config)))


def memory(size: ModelSize, work: Work) -> Need:
    """What `work` takes on each device. Keys and values are in the dtype of the activations: 16 bits under integer
    weights. Raises ModelInvalid for a dtype without a known size."""
    if work.dtype not in VALUE_BYTES:
        raise ModelInvalid(f"dtype {work.dtype!r}: expected one of {', '.join(VALUE_BYTES)}")
    kind, width = size.kind, 4 if work.dtype == "fp32" else 2
    token_bytes = 2 * kind.kv_heads * kind.head_dim * width / work.degree
    tokens = kept_tokens(kind, work.prompt_tokens, work.new_tokens)
    window = f", window {kind.sliding_window}" if kind.sliding_window else ""
    text = (
        f"{work.rows} rows x {tokens:,} layer tokens x 2 x {kind.kv_heads} heads x {kind.head_dim} x {width} bytes"
        f"{window}{f' / {work.degree}' if work.degree > 1 else ''}"
    )
    # A layer's input, queries, keys, values and a feed-forward layer of about four times the hidden size, twice.
    layer = work.rows * work.prompt_tokens * width * (4 * kind.hidden + 8 * kind.hidden / work.degree)
    return Need(
        weights_bytes=size.parameters * VALUE_BYTES[work.dtype] / work.degree,
        kv_bytes=work.rows * tokens * token_bytes,
        activation_bytes=layer + 4.0 * work.rows * kind.vocab_size,
        kv_text=text,
    )


def kept_tokens(kind: ModelKind, prompt_tokens: int, new_tokens: int) -> int:
    """Tokens whose keys and values one request keeps, summed over the layers: of a windowed layer at most the window;
    of an encoder-decoder the answer's own and, for its attention to the prompt, the prompt's."""
    tokens = prompt_tokens + new_tokens
    if not kind.is_decoder or kind.sliding_window is None:
        return kind.layers * tokens
    period = _LAYERS_A_WINDOW.get(kind.model_type)
    whole = kind.layers // period if period else 0
    return whole * tokens + (kind.layers - whole) * min(tokens, kind.sliding_window)


def reference_dtype(size: ModelSize | None, machine_bytes: float) -> str:
    """The dtype in which the reference answers: fp32, or the checkpoint's own where fp32 would take more than nine
    tenths of the machine's memory."""
    if size is None or size.kind.dtype in ("", "fp32"):
        return "fp32"
    return size.kind.dtype if size.parameters * 4.0 + PROCESS_BYTES > 0.9 * machine_bytes else "fp32"


def _count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(prod(shape) for shape in shapes)


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.2f}"
