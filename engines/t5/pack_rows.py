"""Packing rows of a T5 weight matrix into panels, by the native library's packing calls.

The layout is in kernels/ops/panels.h.
"""

# ruff: noqa: N806 - tensor letters (K, N) are the same here, in C++ and in the docs

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.errors import ModelInvalid
from engines.t5 import native

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

FP16_END = 65520.0
"""The smallest magnitude that fp16 rounds to infinity."""


def round_to_bf16(values: FloatArray) -> npt.NDArray[np.uint16]:
    """Nearest bf16, ties to even (finite inputs)."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def round_table(form: str, values: FloatArray) -> Bytes:
    """The bytes of row-major `values` as fp32, bf16 or fp16. Raises ModelInvalid for one that does not fit fp16."""
    if form == "fp16":
        _check_fits_fp16(values)
        return values.astype(np.float16).view(np.uint8)
    return (round_to_bf16(values) if form == "bf16" else values).view(np.uint8)


def _check_fits_fp16(values: FloatArray) -> None:
    if values.size and not np.abs(values).max() < FP16_END:
        raise ModelInvalid(f"a weight of magnitude {np.abs(values).max():.6g} does not fit fp16: use bf16 or fp32")


def pack_rows(
    form: str, rows: FloatArray, total: int, out: Bytes, *,
    first_panel: int = 0, step: int = 1, peaks: FloatArray | None = None,
) -> None:  # fmt: skip
    """Pack rows [N, K] (outputs by inputs) into `out`, a packed matrix of `total` outputs.

    `peaks` [N]: max |row| of the uncut matrix, for int8 ranks that must round alike.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if form == "fp16":
        _check_fits_fp16(rows)
    N, K = rows.shape
    status = native.library().t5k_pack(
        native.FORMATS[form], rows.ctypes.data, K, K, N, total, first_panel, step, out.ctypes.data,
        None if peaks is None else peaks.ctypes.data,
    )  # fmt: skip
    if status:
        raise ModelInvalid(f"packing a [{N}, {K}] matrix as {form} failed with status {status}")


def screen_norms(rows: FloatArray, form: str) -> FloatArray:
    """[2, N] of rows [N, K]: norms of what the int8 copy of each row leaves out of the stored head, and of the copy.

    Rounded up, so that the bounds of kernels/ops/screen.h hold. `form` is how the head itself is stored.
    """
    copy, stored = (stored_values(f, rows).astype(np.float64) for f in ("int8", form))
    return np.stack([np.sqrt((v * v).sum(axis=1)) * (1 + 1e-6) for v in (stored - copy, copy)]).astype(np.float32)


def stored_values(form: str, rows: FloatArray) -> FloatArray:
    """What rows [N, K] are once packed: the numbers the kernels compute with."""
    N, K = rows.shape
    library, number = native.library(), native.FORMATS[form]
    packed = np.zeros(library.t5k_packed_bytes(number, K, N), dtype=np.uint8)
    pack_rows(form, rows, N, packed)
    out = np.empty((N, K), dtype=np.float32)
    library.t5k_unpack(number, packed.ctypes.data, K, N, out.ctypes.data)
    return out
