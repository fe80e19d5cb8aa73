"""Single ops called from NumPy: dense rows in, dense rows out, packed weights made on the way."""

# ruff: noqa: N806 - tensor letters

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from engines.t5 import native
from engines.t5 import pack_rows as panels

REFERENCE = "reference"
"""In place of an ISA: the plain loops of kernels/ops/linear_reference.cpp."""
REFERENCE_AMX = "reference amx"
"""The same with bf16 summed in the order of AMX's tiles."""
EPILOGUES = {"store": 0, "add": 1, "act": 2, "gated": 3, "argmax": 4}


@cache
def isas() -> list[str]:
    """Those this machine can run."""
    return [name for name in native.ISAS if native.library().t5k_isa(name.encode())]


def reference_of(isa: str) -> str:
    """The plain loops whose bits an ISA has."""
    return REFERENCE_AMX if isa in ("amx", REFERENCE_AMX) else REFERENCE


def nearest_bf16(x: np.ndarray) -> np.ndarray:
    """fp32 rounded to the nearest bf16, ties to even, as fp32; NaN is not for this."""
    bits = x.view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)


def stride(width: int) -> int:
    return -(-width // 32) * 32


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Zeros on a 64-byte boundary."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def rows(x: np.ndarray) -> np.ndarray:
    """[R, K] with the row stride and the zero padding that the kernels expect."""
    out = aligned((len(x), stride(x.shape[1])))
    out[:, : x.shape[1]] = x
    return out


@contextmanager
def bench(isa: str, threads: int = 1) -> Iterator[int]:
    handle = native.library().t5k_bench_open(isa.encode(), threads)
    assert handle
    try:
        yield handle
    finally:
        native.library().t5k_bench_close(handle)


def packed(form: str, w: np.ndarray, gated: bool = False) -> tuple[Any, int]:
    """Packed [N, K] weights (gated: the two halves interleaved) and the packed N."""
    half = len(w) // 2
    N = 2 * -(-half // 16) * 16 if gated else len(w)
    K = w.shape[1]
    out = aligned((native.library().t5k_packed_bytes(native.FORMATS[form], K, N),), np.uint8)
    if gated:
        for first in (0, 1):
            panels.pack_rows(form, w[first * half : (first + 1) * half], N, out, first_panel=first, step=2)
    else:
        panels.pack_rows(form, w, N, out)
    return out, N


def unpacked(form: str, w: np.ndarray) -> np.ndarray:
    """What the packed weights stand for, [N, K] fp32."""
    data, N = packed(form, w)
    out = np.empty((N, w.shape[1]), np.float32)
    native.library().t5k_unpack(native.FORMATS[form], data.ctypes.data, w.shape[1], N, out.ctypes.data)
    return out


def _linear_reference() -> Any:
    function = native.library().t5k_op_linear_reference
    pointer, int32, int64 = c.c_void_p, c.c_int32, c.c_int64
    function.argtypes = (*[int32] * 4, pointer, *[int64] * 3, pointer, int64, pointer, int32)
    return function


def linear(
    isa: str, form: str, w: np.ndarray, x: np.ndarray, *, epilogue: str = "store", act: int = 0,
    quantize_rows: bool = False, y: np.ndarray | None = None, threads: int = 1,
) -> np.ndarray:  # fmt: skip
    """[R, N] (gated: [R, N / 2]; argmax: R pairs (value, index)). isa: a kernels' one, or a REFERENCE's loops."""
    gated = epilogue == "gated"
    data, N = packed(form, w, gated)
    columns = len(w) // 2 if gated else N
    source = rows(x)
    if epilogue == "argmax":
        out = aligned((len(x), 2))
    else:
        out = rows(np.zeros((len(x), columns), np.float32) if y is None else y)
    job = (
        native.FORMATS[form], quantize_rows, EPILOGUES[epilogue], act, data.ctypes.data, x.shape[1], N, columns,
        source.ctypes.data, len(x), out.ctypes.data,
    )  # fmt: skip
    if isa in (REFERENCE, REFERENCE_AMX):
        status = _linear_reference()(*job, isa == REFERENCE_AMX)
    else:
        with bench(isa, threads) as handle:
            status = native.library().t5k_op_linear(handle, *job, 1)
    assert status == 0
    return out if epilogue == "argmax" else out[:, :columns].copy()


def attend(
    isa: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, *, bias: np.ndarray | None = None,
    window: int = 0, first: int = 0, causal: bool = False, threads: int = 1, cache_bytes: int = 4,
    is_rounded: bool = False,
) -> np.ndarray:  # fmt: skip
    """[R, heads * D] from q [R, heads * D] and k, v [keys, heads * D]."""
    D = q.shape[1] // heads
    qs, ks, vs, out = rows(q), rows(k), rows(v), rows(np.zeros_like(q))
    table = None if bias is None else np.ascontiguousarray(bias, np.float32)
    with bench(isa, threads) as handle:
        status = native.library().t5k_op_attend(
            handle, qs.ctypes.data, ks.ctypes.data, vs.ctypes.data, None if table is None else table.ctypes.data,
            window, len(q), len(k), heads, D, first, causal, cache_bytes, is_rounded, out.ctypes.data, 1,
        )  # fmt: skip
    assert status == 0
    return out[:, : q.shape[1]].copy()


def rms_norm(isa: str, x: np.ndarray, w: np.ndarray, eps: float, out_scale: float) -> np.ndarray:
    xs, out = rows(x), rows(np.zeros_like(x))
    with bench(isa) as handle:
        status = native.library().t5k_op_rms_norm(
            handle, xs.ctypes.data, w.ctypes.data, len(x), x.shape[1], eps, out_scale, out.ctypes.data
        )
    assert status == 0
    return out[:, : x.shape[1]].copy()


def log_normalizer(isa: str, x: np.ndarray) -> float:
    out = c.c_double()
    with bench(isa) as handle:
        assert native.library().t5k_op_log_normalizer(handle, x.ctypes.data, len(x), c.byref(out)) == 0
    return out.value
