"""What a T5 takes of a device's memory, and so whether it fits: arithmetic, not a measurement.

>>> memory(config, "int8", Work(batch=4)).fits(device_row("A10G"))
"""

# ruff: noqa: E741, N806 - tensor letters

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engines.errors import SpecInvalid
from engines.t5.config import T5Config
from engines.t5.time_model import (
    UNTILED_SLOTS,
    WEIGHT_BYTES,
    DeviceRow,
    Matrix,
    Work,
    encoder_matrices,
    matrix_bytes,
    round_up,
    step_matrices,
)

CONTEXT_BYTES = 600 << 20
"""What a CUDA context, its modules and the allocator's rounding take on a GPU: an assumption, not measured."""
CUBLASLT_WORKSPACE_BYTES = 32 << 20
"""Of kernels/device/cuda_cublaslt.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes on each device. `kv` grows with requests, `workspace` with rows; `reserve` is the context's."""

    weights_bytes: float
    kv_bytes: float
    workspace_bytes: float
    reserve_bytes: float
    tensor_parallel_degree: int
    row_major_bytes: float = 0.0
    """Matrices held a second time, for cuBLASLt."""

    @property
    def total_bytes(self) -> float:
        return self.weights_bytes + self.row_major_bytes + self.kv_bytes + self.workspace_bytes + self.reserve_bytes

    def fits(self, device: DeviceRow) -> bool:
        """Whether one device's share lies within its memory."""
        return self.total_bytes <= device.memory_bytes

    def explain(self, device: DeviceRow) -> str:
        """The arithmetic in one sentence."""
        parts = ", ".join(
            f"{name} {size / 1e9:.2f}"
            for name, size in (
                ("weights", self.weights_bytes), ("their second copy", self.row_major_bytes),
                ("keys and values", self.kv_bytes),
                ("workspace", self.workspace_bytes), ("context", self.reserve_bytes),
            )
            if size or name != "their second copy"
        )  # fmt: skip
        verdict = "fits" if self.fits(device) else "does not fit"
        return (
            f"{self.total_bytes / 1e9:.1f} GB on each of {self.tensor_parallel_degree} ({parts}); "
            f"{device.name} has {device.memory_bytes / 1e9:.1f} GB: {verdict}"
        )


def weights_bytes(config: T5Config, dtype: str, degree: int = 1) -> float:
    """Packed weights of one rank: every matrix, the embedding (fp32, or bf16 under 16-bit dtypes), norms, bias tables.

    A tied head is packed for itself: it is read in panels, the embedding in rows.
    """
    E = config.d_model
    matrices = sum(matrix_bytes(m, dtype) for m in (*step_matrices(config, degree), *encoder_matrices(config, degree)))
    norms = 4.0 * E * (2 * config.encoder_layers + 3 * config.decoder_layers + 2)
    embedding = config.vocab * E * (4.0 if dtype == "fp32" else 2.0)
    tables = (config.encoder_layers + config.decoder_layers) if config.has_layer_bias else 2
    return matrices + norms + embedding + tables * config.heads / degree * (2 * config.max_distance + 32) * 4.0


def row_major_bytes(config: T5Config, dtype: str, degree: int = 1, *, has_tiled_decoder: bool) -> float:
    """One rank's matrices that cuBLASLt reads, K rounded up to 16 bytes: the encoder's, the cross-attention's keys and
    values, and the decoder's where it takes tiles of rows; never the head. None of integer weights."""
    if dtype not in ("fp32", "fp16", "bf16"):
        return 0.0
    size = int(WEIGHT_BYTES[dtype])
    return float(
        sum(
            size * round_up(m.K, 16 // size) * round_up(m.N) for m in _tiled_matrices(config, degree, has_tiled_decoder)
        )
    )


def _tiled_matrices(config: T5Config, degree: int, has_tiled_decoder: bool) -> Iterator[Matrix]:
    yield from encoder_matrices(config, degree)
    if has_tiled_decoder:
        yield from (matrix for matrix in step_matrices(config, degree) if not matrix.is_head)


def memory(
    config: T5Config,
    dtype: str,
    work: Work,
    *,
    max_source: int = 512,
    max_target: int = 128,
    has_cublaslt: bool = False,
) -> Footprint:
    """What `work.batch` requests of the largest size take on each device; has_cublaslt: it multiplies large products
    (T5K_CUBLASLT), from a second copy of the matrices. Raises SpecInvalid for an unknown dtype."""
    if dtype not in WEIGHT_BYTES:
        raise SpecInvalid(f"dtype: expected one of {sorted(WEIGHT_BYTES)}, got {dtype!r}")
    degree, a = work.tensor_parallel_degree, work.activation_bytes
    I, E, F = config.inner // degree, config.d_model, config.d_ff // degree
    per_layer = 2.0 * work.cache_bytes * I * (work.rows * round_up(max_target) + work.batch * round_up(max_source))
    encoder_rows = work.batch * max_source
    row_bytes = 4.0 * E * (2 if degree > 1 else 1) + a * (E + 4 * I + F)  # the residual and partial sums stay fp32
    activations = (encoder_rows + work.rows) * row_bytes + 2.0 * a * round_up(encoder_rows) * I
    copies = has_cublaslt and row_major_bytes(config, dtype, degree, has_tiled_decoder=work.batch > UNTILED_SLOTS)
    if copies:  # and sums that wait for their activation, in fp32
        activations += 4.0 * max(encoder_rows, work.rows) * (2 if config.is_gated else 1) * round_up(F)
        activations += CUBLASLT_WORKSPACE_BYTES
    return Footprint(
        row_major_bytes=float(copies),
        weights_bytes=weights_bytes(config, dtype, degree),
        kv_bytes=config.decoder_layers * per_layer,
        workspace_bytes=activations + 4.0 * work.rows * config.vocab,
        reserve_bytes=float(CONTEXT_BYTES),
        tensor_parallel_degree=degree,
    )


def smallest_degree(config: T5Config, dtype: str, device: DeviceRow, work: Work) -> int | None:
    """The least tensor-parallel degree (1, 2, 4, 8) whose share fits one device, None if none does."""
    for degree in (1, 2, 4, 8):
        if config.heads % degree or config.d_ff % degree:
            continue
        if memory(config, dtype, replace(work, tensor_parallel_degree=degree)).fits(device):
            return degree
    return None
