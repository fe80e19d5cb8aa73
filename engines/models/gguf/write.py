"""A GGUF file (llama.cpp's format) written from a Hugging Face folder of a decoder-only model.

Runs as a program in a child process, so that its memory is nobody else's; tensors are read, converted and written one
after the other. Matrices get the asked type, vectors and positions stay F32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import ModelKind, kind_of, read_config, template_text, text_config
from engines.models.checkpoint.safetensors_header import StoredTensor, stored_tensors
from engines.models.checkpoint.special_ids import special_ids
from engines.models.gguf.architectures import Array, GgufArchitecture, architecture, rope_factors
from engines.models.gguf.tokenizer import ENDS_BY_TEXT, UNKNOWN, GgufTokenizer, gguf_tokenizer
from engines.processes.call_in_child import answer_call

WRITER = 1
"""Part of the cache key: raise it when what is written changes."""

TYPES: Mapping[str, tuple[str, str]] = {
    "fp32": ("F32", "F32"),
    "fp16": ("F16", "F16"),
    "bf16": ("BF16", "BF16"),
    "int8": ("Q8_0", "Q8_0"),
    "int4": ("Q4_0", "Q8_0"),
}
"""dtype -> GGUF's type of the matrices, and of the embeddings and the head, which llama.cpp too keeps finer."""

FILE_TYPES: Mapping[str, int] = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2}
"""general.file_type: for people who look at the file, nothing reads it."""

_NUMPY: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_LEFT_OUT = (".attn.bias", ".attn.masked_bias", ".inv_freq")
"""Buffers that old checkpoints carry; no weights."""
_ENDS = ("eos", "eot", "eom")
"""The end ids that a GGUF file can name: of the sequence, of the turn, of the message."""


def write_gguf(model_dir: str, path: str, dtype: str) -> None:
    """Write the folder's model to `path` with `dtype` weights. Raises ModelInvalid."""
    _Writing(Path(model_dir), Path(path), dtype).run()


@dataclass(frozen=True, slots=True)
class _Source:
    """One tensor of the checkpoint: its name, the file it is in and its place there."""

    name: str
    file: Path
    place: StoredTensor

    def read(self) -> Array:
        """Its values as fp32."""
        kind = _NUMPY.get(self.place.dtype)
        if kind is None:
            raise ModelInvalid(f"{self.file}: a tensor is {self.place.dtype}, expected one of {', '.join(_NUMPY)}")
        values: Array = np.memmap(self.file, dtype=np.uint8, mode="r")[self.place.begin : self.place.end].view(kind)
        if self.place.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32).reshape(self.place.shape)


class _Writing:
    """One file being written."""

    def __init__(self, model_dir: Path, path: Path, dtype: str) -> None:
        self._dir = model_dir
        self._path = path
        self._types = TYPES[dtype]
        config = read_config(model_dir)
        self._config: Mapping[str, Any] = {**config, **text_config(config)}
        self._kind: ModelKind = kind_of(config, model_dir)
        self._architecture: GgufArchitecture = architecture(self._config, self._kind)

    def run(self) -> None:
        import gguf

        writer = gguf.GGUFWriter(self._path, self._architecture.name)
        self._add_keys(writer)
        arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == self._architecture.name)
        names = gguf.get_tensor_name_map(arch, self._kind.layers)
        sources = [(_written_name(names, source), source) for source in self._sources()]
        for name, source in sources:
            kind = self._type(gguf, name, self._shape(source))
            shape = gguf.quants.quant_shape_to_byte_shape(self._shape(source), kind)
            writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)
        factors = rope_factors(self._config, self._kind)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, source in sources:
            values = gguf.quants.quantize(self._values(source), self._type(gguf, name, self._shape(source)))
            writer.write_tensor_data(np.ascontiguousarray(values).view(np.uint8))
        if factors is not None:
            writer.write_tensor_data(factors)
        writer.close()

    def _values(self, source: _Source) -> Array:
        values = source.read()
        if source.name.endswith(self._architecture.transposed):
            values = values.T
        return np.ascontiguousarray(self._architecture.tensor(source.name, values, self._config, self._kind))

    def _shape(self, source: _Source) -> tuple[int, ...]:
        shape = source.place.shape
        return shape[::-1] if source.name.endswith(self._architecture.transposed) else shape

    def _type(self, gguf: Any, name: str, shape: tuple[int, ...]) -> Any:
        """GGUF's type of a tensor; a row that no whole blocks fit into stays F16."""
        if len(shape) < 2 or name.startswith("position_embd"):
            return gguf.GGMLQuantizationType.F32
        word = self._types[name.startswith(("token_embd", "output"))]
        kind = gguf.GGMLQuantizationType[word]
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        return kind if shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16

    def _sources(self) -> Iterator[_Source]:
        """The tensors to write, in the order of their names."""
        files = sorted(self._dir.glob("model*.safetensors"))
        if not files:
            raise ModelInvalid(
                f"{self._dir}: no safetensors to write a GGUF file from; save the model once with "
                "save_pretrained(folder)"
            )
        for file in files:
            for name, place in sorted(stored_tensors(file).items()):
                is_head = name.startswith("lm_head.")
                if not name.endswith(_LEFT_OUT) and not (is_head and self._kind.is_tied):
                    yield _Source(name, file, place)

    def _add_keys(self, writer: Any) -> None:
        writer.add_type("model")
        writer.add_file_type(FILE_TYPES[self._types[0]])
        writer.add_quantization_version(2)
        for key, value in self._architecture.keys(self._config, self._kind).items():
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
            add(f"{self._architecture.name}.{key}", value)
        tokenizer = gguf_tokenizer(self._dir, self._kind.vocab_size)
        writer.add_tokenizer_model(tokenizer.model)
        writer.add_tokenizer_pre(tokenizer.pre)
        writer.add_token_list(tokenizer.tokens)
        writer.add_token_types(tokenizer.types)
        if tokenizer.scores:
            writer.add_token_scores(tokenizer.scores)
            writer.add_add_space_prefix(tokenizer.has_prefix)
            if UNKNOWN in tokenizer.types:
                writer.add_unk_token_id(tokenizer.types.index(UNKNOWN))
        else:
            writer.add_token_merges(tokenizer.merges)
        self._add_special_ids(writer, tokenizer)
        if template := template_text(self._dir):
            writer.add_chat_template(template)

    def _add_special_ids(self, writer: Any, tokenizer: GgufTokenizer) -> None:
        special = special_ids(self._dir)
        bos = special.bos if tokenizer.bos is None else tokenizer.bos
        if bos is not None:
            writer.add_bos_token_id(bos)
        writer.add_add_bos_token(tokenizer.bos is not None)
        writer.add_add_eos_token(False)
        writer.add_pad_token_id(special.pad)
        others = [end for end in special.eos[1:] if tokenizer.tokens[end] not in ENDS_BY_TEXT]
        if len(others) >= len(_ENDS):
            raise ModelInvalid(
                f"{self._dir}: its answers end at any of {len(special.eos)} tokens, and a GGUF file names "
                f"{len(_ENDS)}; token {others[-1]} would not end one"
            )
        for end, key in zip((special.eos[0], *others), _ENDS, strict=False):
            getattr(writer, f"add_{key}_token_id")(end)


def _written_name(names: Any, source: _Source) -> str:
    """GGUF's name of a tensor of the checkpoint; published files may lack the prefix."""
    for prefix in ("", "transformer.", "model."):
        found: str | None = names.get_name(prefix + source.name, try_suffixes=(".weight", ".bias"))
        if found:
            return found
    raise ModelInvalid(f"{source.file}: tensor {source.name!r} has no name in GGUF; the model is of another make")


if __name__ == "__main__":
    answer_call(write_gguf)
