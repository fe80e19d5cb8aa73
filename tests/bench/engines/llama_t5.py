"""T5 in llama.cpp through libllama's own calls: its server does not run the architecture.

The library is the one inside the pinned wheel of the llamacpp engine (xllamacpp), which exports libllama's functions;
the GGUF file is written here from the Hugging Face folder: f32, bf16, q8_0 or q4_0. One row at a time, as llama_encode
keeps one encoder output for all sequences of a context.

Structs that libllama takes by value are opaque blocks larger than they are: the System V ABI of x86-64 passes them on
the stack, and the callee reads its own size of them.
"""

from __future__ import annotations

import ctypes as c
import json
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from engines.api import EngineFacts, EngineSpec, GenerateRequest, TokenEvent
from engines.errors import Unavailable

NAME = "llama.cpp"
FORMS = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
"""Our dtypes and the GGUF type of every matrix; norms and biases stay f32."""
CONTEXT = 640
"""Tokens of an input, or of an answer, at most."""
NAMES = {
    "SelfAttention.q": "attn_q", "SelfAttention.k": "attn_k", "SelfAttention.v": "attn_v", "SelfAttention.o": "attn_o",
    "EncDecAttention.q": "cross_attn_q", "EncDecAttention.k": "cross_attn_k", "EncDecAttention.v": "cross_attn_v",
    "EncDecAttention.o": "cross_attn_o", "DenseReluDense.wi_0": "ffn_gate", "DenseReluDense.wi_1": "ffn_up",
    "DenseReluDense.wi": "ffn_up", "DenseReluDense.wo": "ffn_down",
    "SelfAttention.relative_attention_bias": "attn_rel_b",
}  # fmt: skip


class _Block(c.Structure):
    """A params struct of libllama, whatever its version."""

    _fields_ = (("words", c.c_int32 * 128),)


class _Batch(c.Structure):
    _fields_ = (
        ("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p), ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)), ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    )  # fmt: skip


def gguf_name(name: str) -> str | None:
    """The tensor's name in a GGUF file; None for one that is not in it."""
    known = {
        "shared": "token_embd", "lm_head": "output", "encoder.final_layer_norm": "enc.output_norm",
        "decoder.final_layer_norm": "dec.output_norm",
    }  # fmt: skip
    stem = name.removesuffix(".weight")
    if stem in known:
        return f"{known[stem]}.weight"
    parts = stem.split(".")
    if len(parts) < 6 or parts[1] != "block":
        return None
    side, layer, sub, module = parts[0][:3], parts[2], int(parts[4]), ".".join(parts[5:])
    if module == "layer_norm":
        norms = {"enc": ("attn_norm", "ffn_norm"), "dec": ("attn_norm", "cross_attn_norm", "ffn_norm")}
        return f"{side}.blk.{layer}.{norms[side][sub]}.weight"
    return f"{side}.blk.{layer}.{NAMES[module]}.weight"


def write_gguf(folder: Path, path: Path, dtype: str) -> Path:
    """The folder's T5 as a GGUF file without a tokenizer, written once. Its head must be its own matrix."""
    if path.is_file():
        return path
    import gguf

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = gguf.GGMLQuantizationType[FORMS[dtype]]
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "t5")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config["d_model"])
    writer.add_feed_forward_length(config["d_ff"])
    writer.add_block_count(config["num_layers"])
    writer.add_head_count(config["num_heads"])
    writer.add_key_length(config["d_kv"])
    writer.add_value_length(config["d_kv"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_relative_attn_buckets_count(config["relative_attention_num_buckets"])
    writer.add_decoder_start_token_id(config["decoder_start_token_id"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        named = gguf_name(name)
        if named is None:
            continue
        values = np.ascontiguousarray(tensor, np.float32)
        if values.ndim == 1 or "rel_b" in named:
            writer.add_tensor(named, values)
        else:
            writer.add_tensor(named, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)
    return path


def library() -> c.CDLL:
    """The wheel's library with libllama's functions. Raises Unavailable."""
    try:
        import xllamacpp
    except ImportError as error:
        raise Unavailable("xllamacpp is not installed: pip install 'dynamometer[llamacpp]'") from error
    found = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"), None)
    if found is None or platform.machine() != "x86_64":
        raise Unavailable("libllama is looked for in xllamacpp's own library, on x86-64")
    loaded = c.CDLL(str(found))
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "llama_model_default_params": (_Block, ()),
        "llama_context_default_params": (_Block, ()),
        "llama_model_load_from_file": (c.c_void_p, (c.c_char_p, _Block)),
        "llama_init_from_model": (c.c_void_p, (c.c_void_p, _Block)),
        "llama_set_n_threads": (None, (c.c_void_p, c.c_int32, c.c_int32)),
        "llama_batch_get_one": (_Batch, (c.POINTER(c.c_int32), c.c_int32)),
        "llama_encode": (c.c_int32, (c.c_void_p, _Batch)),
        "llama_decode": (c.c_int32, (c.c_void_p, _Batch)),
        "llama_get_logits_ith": (c.POINTER(c.c_float), (c.c_void_p, c.c_int32)),
        "llama_get_memory": (c.c_void_p, (c.c_void_p,)),
        "llama_memory_clear": (None, (c.c_void_p, c.c_bool)),
        "llama_model_free": (None, (c.c_void_p,)),
        "llama_free": (None, (c.c_void_p,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def missing() -> str:
    """Why it cannot run here, or ''."""
    try:
        library()
    except (Unavailable, OSError, AttributeError) as error:
        return str(error)
    return ""


class LlamaT5:
    """A Backend as the bench's worker uses one."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Write the GGUF file where there is none, and load it."""
        self._lib = library()
        path = write_gguf(spec.model_dir, spec.model_dir / f"llama-{FORMS[spec.dtype]}.gguf", spec.dtype)
        config = json.loads((spec.model_dir / "config.json").read_text(encoding="utf-8"))
        self._vocab, self._start = config["vocab_size"], config["decoder_start_token_id"]
        began = time.monotonic()
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), self._lib.llama_model_default_params())
        if not self._model:
            raise Unavailable(f"libllama did not load {path}")
        params = self._lib.llama_context_default_params()
        n_ctx, n_batch, n_ubatch = 0, 1, 2  # the first words of llama_context_params
        assert list(params.words[:3]) == [512, 2048, 512], list(params.words[:6])
        params.words[n_ctx] = params.words[n_batch] = params.words[n_ubatch] = CONTEXT
        self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise Unavailable("libllama made no context")
        threads = spec.threads or 1
        self._lib.llama_set_n_threads(self._context, threads, threads)
        return EngineFacts(effective_dtype=FORMS[spec.dtype], versions={}, load_s=time.monotonic() - began)

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        """Greedy, row by row; the end token is kept away until min_new_tokens, as the bench asks."""
        for index, request in enumerate(batch):
            yield from self._row(index, request)

    def _row(self, index: int, request: GenerateRequest) -> Iterator[Sequence[TokenEvent]]:
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        source = (c.c_int32 * len(request.input_ids))(*request.input_ids)
        if lib.llama_encode(self._context, lib.llama_batch_get_one(source, len(source))):
            raise RuntimeError("llama_encode failed")
        token = (c.c_int32 * 1)(self._start)
        for step in range(request.params.max_new_tokens):
            if lib.llama_decode(self._context, lib.llama_batch_get_one(token, 1)):
                raise RuntimeError("llama_decode failed")
            logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(self._context, -1), (self._vocab,))
            if step < request.params.min_new_tokens - 1:
                logits[1] = -np.inf
            token[0] = int(logits.argmax())
            is_last = step + 1 == request.params.max_new_tokens or token[0] == 1
            yield [TokenEvent(index=index, token_id=token[0], finish="length" if is_last else None)]
            if is_last:
                return

    def close(self) -> None:
        """Free context and model."""
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)
