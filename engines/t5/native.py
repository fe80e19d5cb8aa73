"""Bindings by ctypes to the native library libt5k.so of the T5 engine, mirroring its C headers."""

from __future__ import annotations

import ctypes as c
import functools
import os
from pathlib import Path

from engines.errors import Unavailable

ABI = 6
FORMATS = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3, "fp16": 4}
ISAS = ("scalar", "avx2", "avx512", "avx512_bf16", "amx")
"""Of the CPU kernels; a machine has some of them (kernels/README.md)."""
ACTIVATIONS = {"fp32": 0, "fp16": 1, "bf16": 2}
FINISHES = (None, "eos", "length", "stop", "cancelled")

ROLES = (
    "embed", "head", "norm_att", "qkv", "out", "norm_cross", "cross_q",
    "cross_kv", "cross_out", "norm_ff", "ff_in", "ff_out", "norm_final", "bias",
    "head_screen", "screen_norms",
)  # fmt: skip


class Error(c.Structure):
    _fields_ = (("message", c.c_char * 512),)


class Tensor(c.Structure):
    _fields_ = (
        ("role", c.c_int32),
        ("is_decoder", c.c_int32),
        ("layer", c.c_int32),
        ("rank", c.c_int32),
        ("format", c.c_int32),
        ("reserved", c.c_int32),
        ("K", c.c_int64),
        ("N", c.c_int64),
        ("data", c.c_void_p),
        ("bytes", c.c_int64),
    )


class Config(c.Structure):
    _fields_ = (
        ("abi", c.c_int32),
        ("vocab", c.c_int32),
        ("d_model", c.c_int32),
        ("d_kv", c.c_int32),
        ("d_ff", c.c_int32),
        ("heads", c.c_int32),
        ("encoder_layers", c.c_int32),
        ("decoder_layers", c.c_int32),
        ("activation", c.c_int32),
        ("is_gated", c.c_int32),
        ("bias_window", c.c_int32),
        ("pad_id", c.c_int32),
        ("start_id", c.c_int32),
        ("eos_count", c.c_int32),
        ("eos_ids", c.c_int32 * 8),
        ("eps", c.c_float),
        ("head_scale", c.c_float),
        ("ranks", c.c_int32),
        ("threads", c.c_int32),
        ("max_slots", c.c_int32),
        ("max_source", c.c_int32),
        ("max_target", c.c_int32),
        ("quantize_rows", c.c_int32),
        ("is_static", c.c_int32),
        ("isa", c.c_char * 16),
        ("cuda_driver", c.c_char_p),
        ("cuda_image", c.c_char_p),
        ("activations", c.c_int32),
        ("caches", c.c_int32),
    )


class Cuda(c.Structure):
    _fields_ = (
        ("devices", c.c_int32),
        ("arch", c.c_int32),
        ("driver_version", c.c_int32),
        ("are_peers", c.c_int32),
        ("memory_bytes", c.c_int64),
        ("name", c.c_char * 128),
    )


class Params(c.Structure):
    _fields_ = (
        ("max_new_tokens", c.c_int32),
        ("min_new_tokens", c.c_int32),
        ("num_beams", c.c_int32),
        ("num_return_sequences", c.c_int32),
        ("early_stopping", c.c_int32),
        ("do_sample", c.c_int32),
        ("top_k", c.c_int32),
        ("no_repeat_ngram_size", c.c_int32),
        ("return_logprobs", c.c_int32),
        ("ignore_eos", c.c_int32),
        ("length_penalty", c.c_float),
        ("temperature", c.c_float),
        ("top_p", c.c_float),
        ("repetition_penalty", c.c_float),
        ("seed", c.c_uint64),
        ("bad_words", c.c_int32),
        ("stop_sequences", c.c_int32),
        ("bad_word_ids", c.POINTER(c.c_int32)),
        ("bad_word_ends", c.POINTER(c.c_int32)),
        ("stop_ids", c.POINTER(c.c_int32)),
        ("stop_ends", c.POINTER(c.c_int32)),
    )


class Event(c.Structure):
    _fields_ = (
        ("handle", c.c_int64),
        ("token", c.c_int32),
        ("finish", c.c_int32),
        ("hypothesis", c.c_int32),
        ("logprob", c.c_float),
    )


_I32P = c.POINTER(c.c_int32)
_F32P = c.POINTER(c.c_float)
_ENGINE = c.c_void_p
_ERROR = c.POINTER(Error)

_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "t5k_isa": (c.c_char_p, (c.c_char_p,)),
    "t5k_cuda_look": (c.c_int32, (c.c_char_p, c.POINTER(Cuda), _ERROR)),
    "t5k_packed_bytes": (c.c_int64, (c.c_int32, c.c_int64, c.c_int64)),
    "t5k_pack": (
        c.c_int32,
        (c.c_int32, c.c_void_p, *[c.c_int64] * 6, c.c_void_p, c.c_void_p),
    ),
    "t5k_unpack": (c.c_int32, (c.c_int32, c.c_void_p, c.c_int64, c.c_int64, c.c_void_p)),
    "t5k_digest": (None, (c.c_void_p, c.c_int64, c.POINTER(c.c_uint64))),
    "t5k_create": (c.c_int32, (c.POINTER(Config), c.POINTER(Tensor), c.c_int32, c.POINTER(_ENGINE), _ERROR)),
    "t5k_destroy": (None, (_ENGINE,)),
    "t5k_about": (c.c_char_p, (_ENGINE,)),
    "t5k_submit": (c.c_int32, (_ENGINE, c.c_void_p, c.c_int32, c.POINTER(Params), c.POINTER(c.c_int64), _ERROR)),
    "t5k_cancel": (c.c_int32, (_ENGINE, c.c_int64, _ERROR)),
    "t5k_step": (c.c_int32, (_ENGINE, c.c_int32, c.POINTER(c.POINTER(Event)), c.POINTER(c.c_int64), _ERROR)),
    "t5k_load": (None, (_ENGINE, _I32P, _I32P)),
    "t5k_encode": (c.c_int32, (_ENGINE, _I32P, _I32P, c.c_int32, c.c_void_p, _ERROR)),
    "t5k_score": (c.c_int32, (_ENGINE, _I32P, c.c_int32, _I32P, c.c_int32, c.c_void_p, _ERROR)),
    "t5k_bench_open": (c.c_void_p, (c.c_char_p, c.c_int32)),
    "t5k_bench_close": (None, (c.c_void_p,)),
    "t5k_op_linear": (
        c.c_int32,
        (c.c_void_p, *[c.c_int32] * 4, c.c_void_p, *[c.c_int64] * 3, c.c_void_p, c.c_int64, c.c_void_p, c.c_int32),
    ),
    "t5k_op_attend": (
        c.c_int32,
        (*[c.c_void_p] * 5, *[c.c_int64] * 6, *[c.c_int32] * 3, c.c_void_p, c.c_int32),
    ),
    "t5k_op_rms_norm": (
        c.c_int32,
        (c.c_void_p, c.c_void_p, c.c_void_p, c.c_int64, c.c_int64, c.c_float, c.c_float, c.c_void_p),
    ),
    "t5k_op_log_normalizer": (c.c_int32, (c.c_void_p, c.c_void_p, c.c_int64, c.POINTER(c.c_double))),
    "t5k_op_read": (c.c_double, (c.c_void_p, c.c_void_p, c.c_int64, c.c_int32)),
    "t5k_op_peak": (c.c_double, (c.c_void_p, c.c_double)),
    "t5k_op_barrier": (c.c_double, (c.c_void_p, c.c_int32)),
    "t5k_process": (c.c_int32, (_ENGINE, c.POINTER(Params), _I32P, c.c_int32, c.c_void_p, _ERROR)),
}


def library_path() -> Path:
    """Where the library is: T5K_LIBRARY (tests of sanitizer builds), or beside this file."""
    forced = os.environ.get("T5K_LIBRARY")
    return Path(forced) if forced else Path(__file__).with_name("libt5k.so")


@functools.cache
def library() -> c.CDLL:
    """The loaded library with its signatures set. Raises Unavailable if it has not been built."""
    path = library_path()
    if not path.is_file():
        raise Unavailable(
            f"{path} is missing: build it with `cmake -S kernels -B build/native -DT5K_INPLACE=ON && "
            "cmake --build build/native`, or reinstall the package"
        )
    loaded = c.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def forced_isa() -> bytes:
    """The ISA named by T5K_ISA, one of ISAS, or b"" to let the library choose."""
    return os.environ.get("T5K_ISA", "").encode()


def isa() -> str:
    """The ISA this process would run. Raises Unavailable if T5K_ISA names one this machine lacks."""
    name: bytes | None = library().t5k_isa(forced_isa())
    if name is None:
        raise Unavailable(f"T5K_ISA: expected one of {', '.join(ISAS)} as this CPU has them, got {forced_isa()!r}")
    return name.decode()
