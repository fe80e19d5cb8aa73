"""A model of the device memory that a T5 needs, and so whether it fits: arithmetic, not a measurement.

>>> memory(config, "int8", Work(batch=4)).fits(device_row("A10G"))
"""

# ruff: noqa: E741, N806 - tensor letters

from __future__ import annotations

from dataclasses import dataclass, replace

from engines.errors import SpecInvalid
from engines.t5.config import T5Config
from engines.t5.time_model import (
    WEIGHT_BYTES,
    DeviceRow,
    Work,
    encoder_matrices,
    matrix_bytes,
    round_up,
    step_matrices,
)

CONTEXT_BYTES = 600 << 20
"""What a CUDA context, its modules and the allocator's rounding take on a GPU: an assumption, not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes on each device. `kv` grows with requests, `workspace` with rows; `reserve` is the context's."""

    weights_bytes: float
    kv_bytes: float
    workspace_bytes: float
    reserve_bytes: float
    tensor_parallel_degree: int

    @property
    def total_bytes(self) -> float:
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes + self.reserve_bytes

    def fits(self, device: DeviceRow) -> bool:
        """Whether one device's share is within its memory."""
        return self.total_bytes <= device.memory_bytes

    def explain(self, device: DeviceRow) -> str:
        """The arithmetic in one sentence."""
        parts = ", ".join(
            f"{name} {size / 1e9:.2f}"
            for name, size in (
                ("weights", self.weights_bytes), ("keys and values", self.kv_bytes),
                ("workspace", self.workspace_bytes), ("context", self.reserve_bytes),
            )
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


def memory(
    config: T5Config,
    dtype: str,
    work: Work,
    *,
    max_source: int = 512,
    max_target: int = 128,
) -> Footprint:
    """What `work.batch` requests of the largest size take on each device. Raises SpecInvalid for an unknown dtype."""
    if dtype not in WEIGHT_BYTES:
        raise SpecInvalid(f"dtype: expected one of {sorted(WEIGHT_BYTES)}, got {dtype!r}")
    degree, a = work.tensor_parallel_degree, work.activation_bytes
    I, E, F = config.inner // degree, config.d_model, config.d_ff // degree
    per_layer = 2.0 * work.cache_bytes * I * (work.rows * round_up(max_target) + work.batch * round_up(max_source))
    encoder_rows = work.batch * max_source
    row_bytes = 4.0 * E * (2 if degree > 1 else 1) + a * (E + 4 * I + F)  # the residual and partial sums stay fp32
    activations = (encoder_rows + work.rows) * row_bytes + 2.0 * a * round_up(encoder_rows) * I
    return Footprint(
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
