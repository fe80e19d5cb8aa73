"""The launch records of kernels/cuda/kernel/jobs.h, field by field."""

from __future__ import annotations

import ctypes as c

MAX_SHARDS = 8
STORE, ADD, ACT, GATED, ARGMAX = range(5)
ACTIVATIONS = ("relu", "gelu_new", "gelu", "silu")
P, I32, I64, F32 = c.c_void_p, c.c_int32, c.c_int64, c.c_float


class RmsNorm(c.Structure):
    _fields_ = [("x", P), ("delta", P), ("w", P), ("y", P), ("ldx", I64), ("ldy", I64)]
    _fields_ += [("E", I32), ("eps", F32), ("out_scale", F32)]


class AddShards(c.Structure):
    _fields_ = [("parts", P * MAX_SHARDS), ("y", P), ("ld", I64), ("ldy", I64), ("count", I32), ("N", I32)]


class Embed(c.Structure):
    _fields_ = [("table", P), ("ids", P), ("y", P), ("ldy", I64), ("E", I32)]


class Linear(c.Structure):
    _fields_ = [("w", P), ("scale", P), ("x", P), ("y", P), ("best", P), ("ldx", I64), ("ldy", I64)]
    _fields_ += [("R", I32), ("K", I32), ("N", I32), ("panels", I32), ("epilogue", I32), ("act", I32)]
    _fields_ += [("y_is_f32", I32), ("first_column", I32), ("norm_eps", F32), ("out_scale", F32)]
    _fields_ += [("best_stride", I32)]


class Best(c.Structure):
    _fields_ = [("parts", P), ("x", P), ("best", P), ("ldx", I64), ("count", I32)]


class LogSoftmax(c.Structure):
    _fields_ = [("x", P), ("y", P), ("out", P), ("ldx", I64), ("ldy", I64), ("V", I32)]


class AttendRows(c.Structure):
    _fields_ = [("q", P), ("out", P), ("append_k", P), ("append_v", P), ("k", P), ("v", P), ("bias", P)]
    _fields_ += [("ldq", I64), ("ldo", I64), ("capacity", I64)]
    _fields_ += [("R", I32), ("keys", I32), ("first_position", I32), ("causal", I32), ("position", P)]


class Attend(c.Structure):
    _fields_ = [("blocks", P), ("D", I32), ("W", I32), ("partial", P), ("splits", I32)]


class SampleRow(c.Structure):
    _fields_ = [("seed", c.c_uint64), ("step", c.c_uint64), ("temperature", F32), ("top_p", F32)]
    _fields_ += [("top_k", I32), ("is_off", I32)]


class Sample(c.Structure):
    _fields_ = [("x", P), ("rows", P), ("token", P), ("ldx", I64), ("V", I32)]


class Beam(c.Structure):
    _fields_ = [("logp", P), ("score", P), ("out", P), ("ld", I64), ("V", I32), ("beams", I32), ("wanted", I32)]


class StepRow(c.Structure):
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
    **{f"{op}_{t}": Attend for op in ("attend", "attend_merge", "attend_rows", "store_kv") for t in DTYPES},
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
