"""The records of kernels/ops/*.h that CUDA kernels take, field by field."""

from __future__ import annotations

import ctypes as c

MAX_SHARDS = 8
STORE, ADD, ACT, GATED, ARGMAX = range(5)
ACTIVATIONS = ("relu", "gelu_new", "gelu", "silu")
P, I32, I64, F32 = c.c_void_p, c.c_int32, c.c_int64, c.c_float


class RmsNorm(c.Structure):
    _fields_ = [("x", P), ("ldx", I64), ("w", P), ("y", P), ("ldy", I64), ("R", I64), ("E", I64)]
    _fields_ += [("eps", F32), ("out_scale", F32)]


class AddShards(c.Structure):
    _fields_ = [("host", P), ("of_host", I64), ("ld", I64), ("y", P), ("ldy", I64), ("R", I64), ("N", I64)]
    _fields_ += [("parts", P * MAX_SHARDS), ("count", I32)]


class Embed(c.Structure):
    _fields_ = [("table", P), ("format", I32), ("ids", P), ("y", P), ("ldy", I64), ("R", I64), ("E", I64)]


class Panels(c.Structure):
    _fields_ = [("data", P), ("format", I32), ("K", I64), ("N", I64)]


class Linear(c.Structure):
    """`rounded`: what the CPU keeps there (QuantizedRows). The last three are LinearJob::Gpu."""

    _fields_ = [("w", Panels), ("x", P), ("ldx", I64), ("y", P), ("ldy", I64), ("R", I64), ("columns", I64)]
    _fields_ += [("epilogue", I32), ("act", I32), ("quantize_rows", c.c_bool), ("y_is_f32", c.c_bool)]
    _fields_ += [("is_tiled", c.c_bool), ("out_scale", F32), ("first_column", I64), ("rounded", I64 * 6)]
    _fields_ += [("scale", P), ("best", P), ("best_stride", I64)]


class Best(c.Structure):
    _fields_ = [("parts", P), ("x", P), ("best", P), ("ldx", I64), ("count", I32)]


class LogSoftmax(c.Structure):
    _fields_ = [("x", P), ("y", P), ("out", P), ("ldx", I64), ("ldy", I64), ("V", I32)]


class HeadCache(c.Structure):
    _fields_ = [("k", P), ("v", P), ("capacity", I64), ("size", I64)]


class Attend(c.Structure):
    _fields_ = [("q", P), ("ldq", I64), ("out", P), ("ldo", I64), ("cache", HeadCache), ("append_k", P)]
    _fields_ += [("append_v", P), ("bias", P), ("W", I64), ("heads", I64), ("R", I64), ("D", I64), ("keys", I64)]
    _fields_ += [("first_position", I64), ("causal", c.c_bool), ("row", I64), ("rank", I64), ("position", P)]


class AttendLaunch(c.Structure):
    _fields_ = [("blocks", P), ("partial", P), ("splits", I32)]


class Store(c.Structure):
    _fields_ = [("k", P), ("v", P), ("ld", I64), ("cache", HeadCache), ("heads", I64), ("R", I64), ("D", I64)]
    _fields_ += [("first", I64), ("rank", I64)]


class StoreLaunch(c.Structure):
    _fields_ = [("blocks", P)]


class SampleRow(c.Structure):
    _fields_ = [("seed", c.c_uint64), ("step", c.c_uint64), ("temperature", F32), ("top_p", F32)]
    _fields_ += [("top_k", I32), ("is_off", I32)]


class Sample(c.Structure):
    _fields_ = [("x", P), ("rows", P), ("token", P), ("ldx", I64), ("V", I32)]


class Beam(c.Structure):
    _fields_ = [("logp", P), ("score", P), ("out", P), ("ld", I64), ("V", I32), ("beams", I32), ("wanted", I32)]


class RowRules(c.Structure):
    _fields_ = [("penalty", F32), ("ngram", I32), ("min_new", I32), ("last", I32), ("first_word", I32), ("words", I32)]
    _fields_ += [("is_beam", I32), ("wants_logprob", I32), ("ends_at_eos", I32)]


class StepState(c.Structure):
    _fields_ = [("rows", P), ("words", P), ("word_at", P), ("eos", P), ("history", P), ("token", P), ("position", P)]
    _fields_ += [("done", P), ("sample", P), ("capacity", I64), ("eos_count", I32), ("R", I32)]


class Process(c.Structure):
    _fields_ = [("state", StepState), ("x", P), ("normalizer", P), ("y", P), ("ldx", I64), ("ldy", I64), ("V", I32)]


class Advance(c.Structure):
    _fields_ = [("state", StepState), ("best", P), ("drawn", P), ("x", P), ("normalizer", P), ("chosen", P)]
    _fields_ += [("ldx", I64), ("V", I32)]


SPLIT_KEYS = 512
DTYPES = ("f32", "f16", "bf16")
KERNELS: dict[str, type[c.Structure]] = {
    **{f"rms_norm_{t}": RmsNorm for t in DTYPES},
    **{f"embed_{t}": Embed for t in DTYPES},
    **{f"linear_{w}_{t}": Linear for w in (*DTYPES, "i8", "i4") for t in DTYPES},
    **{f"{op}_{t}": AttendLaunch for op in ("attend", "attend_merge", "attend_rows") for t in DTYPES},
    **{f"store_kv_{t}": StoreLaunch for t in DTYPES},
    **{f"gemm_{t}": Linear for t in (*DTYPES[1:], "i8_bf16", "i4_bf16")},
    "add_shards": AddShards,
    "best_panels": Best,
    "best_logits": Best,
    "log_softmax": LogSoftmax,
    "sample": Sample,
    "beam_step": Beam,
    "process_scores": Process,
    "advance": Advance,
}
"""Every kernel, and the one record it takes."""
