"""A model of a T5's speed: predicted times from the bytes it must read and the multiplications it must do.

    >>> predict(config, "int8", device_row("A10G"), Work(batch=4)).step.expected_s

Nothing here was measured on a GPU. Device rows hold the vendor's peaks and the share of them that we assume a good
kernel reaches; `floor_s` is time at the peaks alone. A CPU's row is made from its measured bandwidth and FMA rate
(cpu_row), and there the model is tested against measured steps. Letters as in kernels/README.md; bytes and seconds.
"""

# ruff: noqa: E741, N806 - tensor letters

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engines.errors import SpecInvalid
from engines.t5.config import T5Config

WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "w8": 1.0, "w8a8": 1.0, "int4": 0.5625}
"""Bytes per weight as packed (int4: a bf16 scale per 32). int4 keeps the head in int8."""

LANES = 16
UNTILED_SLOTS = 16
"""Of the CUDA device (kernels/model/model.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One kind of device: the vendor's peaks and, as `*_frac`, the share of them we assume is reached (CPU: 1)."""

    name: str
    memory_bytes: float
    read_bps: float
    flops: dict[str, float]
    memory_frac: dict[str, float]
    compute_frac: float = 0.6
    launch_s: float = 2e-6
    reduce_s: float = 30e-6
    link_bps: float = 16e9
    untiled_slots: int = 0
    """Decode batches of up to this many slots are multiplied row by row, in fp32; 0: it makes no difference."""
    is_overlapping: bool = True
    """Whether reading hides behind multiplying: on a GPU; on our CPU kernels the two times add up (measured)."""


_PCIE, _NVLINK = (30e-6, 16e9), (12e-6, 200e9)
"""Latency of one small all-reduce and bytes/s between two GPUs: assumptions."""


def _gpu(
    name: str,
    memory_gb: float,
    read_gbps: float,
    tflops: tuple[float, float],
    fracs: tuple[float, float, float],
    link: tuple[float, float],
) -> DeviceRow:
    """tflops: fp32, 16-bit tensor cores (dense). fracs: share of read_gbps at 4 or 2 bytes a weight, int8, int4."""
    fp32, half = (each * 1e12 for each in tflops)
    wide, byte, nibble = fracs
    return DeviceRow(
        name=name,
        memory_bytes=memory_gb * 1e9,
        read_bps=read_gbps * 1e9,
        # int8 and int4 are weight-only on CUDA: multiplied as 16-bit numbers.
        flops={"fp32": fp32, "bf16": half, "fp16": half, "int8": half, "int4": half},
        memory_frac={"fp32": wide, "bf16": wide, "fp16": wide, "int8": byte, "int4": nibble},
        reduce_s=link[0],
        link_bps=link[1],
        untiled_slots=UNTILED_SLOTS,
    )


DEVICES = {
    row.name: row
    for row in (
        _gpu("L4", 24.0, 300, (30.3, 121), (0.87, 0.85, 0.80), _PCIE),
        _gpu("A10G", 24.0, 600, (31.2, 70), (0.87, 0.85, 0.80), _PCIE),
        _gpu("L40S", 48.0, 864, (91.6, 362), (0.87, 0.85, 0.80), _PCIE),
        _gpu("A100-40", 40.0, 1555, (19.5, 312), (0.85, 0.80, 0.70), _NVLINK),
        _gpu("A100-80", 80.0, 2039, (19.5, 312), (0.85, 0.80, 0.70), _NVLINK),
        _gpu("H100-PCIe", 80.0, 2000, (51.0, 756), (0.82, 0.78, 0.65), _PCIE),
        _gpu("H100-NVL", 94.0, 3900, (60.0, 835), (0.82, 0.78, 0.65), _NVLINK),
        _gpu("H100", 80.0, 3350, (66.9, 989), (0.82, 0.78, 0.65), _NVLINK),
        _gpu("H200", 141.0, 4800, (66.9, 989), (0.82, 0.78, 0.65), _NVLINK),
    )
}
"""Peaks from the data sheets; shares that good kernels of this kind reach elsewhere, not measured with ours."""
DRIVER_NAMES = {
    "NVIDIA L4": "L4", "NVIDIA A10G": "A10G", "NVIDIA L40S": "L40S",
    "NVIDIA A100-SXM4-40GB": "A100-40", "NVIDIA A100-PCIE-40GB": "A100-40", "NVIDIA A100-SXM4-80GB": "A100-80",
    "NVIDIA H100 PCIe": "H100-PCIe", "NVIDIA H100 NVL": "H100-NVL", "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
}  # fmt: skip
"""What the driver calls a device -> its row. Whole names: an L40 is no L4, and a slice of an H100 (MIG) no H100."""


def activation_bytes(dtype: str) -> int:
    """Bytes of an activation on the CUDA device. On a CPU activations are fp32."""
    return 4 if dtype == "fp32" else 2


def cache_bytes(dtype: str) -> int:
    """Bytes of a cached key's or value's number, on either device."""
    return 4 if dtype == "fp32" else 2


def device_row(name: str) -> DeviceRow:
    """The row of a GPU by name. Raises SpecInvalid naming those we have."""
    if name not in DEVICES:
        raise SpecInvalid(f"device row: expected one of {sorted(DEVICES)}, got {name!r}")
    return DEVICES[name]


def cpu_row(read_bps: float, fma_flops: float, memory_bytes: float, *, name: str = "cpu") -> DeviceRow:
    """A CPU from its measured read bandwidth and FMA rate at the number of threads that will run.

    Starting a phase costs well under a microsecond (the thread team spins).
    """
    return DeviceRow(
        name=name, memory_bytes=memory_bytes, read_bps=read_bps,
        flops={dtype: fma_flops * CPU_RATES.get(dtype, 1.0) for dtype in WEIGHT_BYTES},
        memory_frac=dict.fromkeys(WEIGHT_BYTES, 1.0), compute_frac=1.0, launch_s=0.5e-6, reduce_s=1e-6,
        link_bps=read_bps, is_overlapping=False,
    )  # fmt: skip


CPU_RATES = {"int8": 1.8, "w8": 1.8, "w8a8": 3.35, "int4": 2.7}
"""Products a second of many rows, over the fp32 FMA rate: 207, 385 and 312 of 115 GFLOP/s, measured with one thread of
an AVX-512 VNNI core (results/published/bench-engines/profile.md). AVX2 has no such instructions and is slower.
bf16 is at the fp32 rate, as in the published run; where the CPU has a bf16 dot product it is 1.9 times that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is asked of the engine: `batch` sources of `source` tokens, `beams` rows each, at output `position`."""

    batch: int = 1
    source: int = 32
    position: int = 20
    beams: int = 1
    tensor_parallel_degree: int = 1
    cache_bytes: int = 4
    """Per cached number: see cache_bytes."""
    activation_bytes: int = 4
    """Per activation: on a GPU see activation_bytes."""

    @property
    def rows(self) -> int:
        """Decoder rows of a step."""
        return self.batch * self.beams


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One pass on one device. `bound` is what most of expected_s is: memory, compute, launch or link."""

    bytes: float
    flops: float
    launches: int
    floor_s: float
    expected_s: float
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Encoder pass (with the cross-attention keys and values) and one decode step, of the whole batch."""

    encoder: Phase
    step: Phase
    work: Work

    @property
    def tokens_per_s(self) -> float:
        """Of all rows together, while decoding."""
        return self.work.batch / self.step.expected_s

    def request_s(self, new_tokens: int) -> float:
        """The batch from its ids to `new_tokens` tokens a row, every step as long as this one."""
        return self.encoder.expected_s + new_tokens * self.step.expected_s


@dataclass(frozen=True, slots=True)
class Matrix:
    """K inputs, N outputs."""

    K: int
    N: int
    is_head: bool = False


def round_up(n: int, to: int = LANES) -> int:
    """The next multiple of `to`."""
    return -(-n // to) * to


def matrix_bytes(matrix: Matrix, dtype: str) -> float:
    """Packed bytes of one rank's matrix: columns to whole panels of 16, a scale a column for int8."""
    name = "int8" if dtype == "int4" and matrix.is_head else dtype
    N = round_up(matrix.N)
    K = round_up(matrix.K, 32) if name == "int4" else matrix.K
    return WEIGHT_BYTES[name] * K * N + (4.0 * N if name in ("int8", "w8", "w8a8") else 0.0)


def _feed_forward(config: T5Config, degree: int) -> tuple[Matrix, ...]:
    E, F = config.d_model, config.d_ff // degree
    return Matrix(E, (2 if config.is_gated else 1) * F), Matrix(F, E)


def step_matrices(config: T5Config, degree: int) -> Iterator[Matrix]:
    """What one rank reads for one step: the decoder without the cross keys and values, and the head."""
    E, I = config.d_model, config.inner // degree
    for _ in range(config.decoder_layers):
        yield from (Matrix(E, 3 * I), Matrix(I, E), Matrix(E, I), Matrix(I, E), *_feed_forward(config, degree))
    yield Matrix(E, -(-config.vocab // degree), is_head=True)


def encoder_matrices(config: T5Config, degree: int) -> Iterator[Matrix]:
    """The encoder, and every decoder layer's cross keys and values."""
    E, I = config.d_model, config.inner // degree
    for _ in range(config.encoder_layers):
        yield from (Matrix(E, 3 * I), Matrix(I, E), *_feed_forward(config, degree))
    for _ in range(config.decoder_layers):
        yield Matrix(E, 2 * I)


def launches(config: T5Config, tensor_parallel_degree: int = 1) -> int:
    """Kernels that one GPU runs for a greedy step: 11 a layer (14 with shards to add), embed, norm, head,
    argmax, advance."""
    return config.decoder_layers * (11 + 3 * (tensor_parallel_degree > 1)) + 5


def _encoder_launches(config: T5Config, degree: int) -> int:
    return config.encoder_layers * (7 + 2 * (degree > 1)) + 2 * config.decoder_layers + 2


@dataclass(slots=True)
class _Sum:
    """Adds up the parts of a pass on one device."""

    device: DeviceRow
    dtype: str
    bytes: float = 0.0
    flops: float = 0.0
    floor_s: float = 0.0
    read_s: float = 0.0
    compute_s: float = 0.0

    def add(self, size_bytes: float, flops: float, kind: str) -> None:
        """One kernel (or a row of alike ones) whose reads overlap its products where the device does so."""
        device = self.device
        peak = device.flops[kind]
        read_s, compute_s = size_bytes / device.read_bps, flops / peak
        self.bytes += size_bytes
        self.flops += flops
        self.floor_s += max(read_s, compute_s)
        read_s /= device.memory_frac[self.dtype]
        compute_s /= device.compute_frac
        if not device.is_overlapping:
            self.read_s, self.compute_s = self.read_s + read_s, self.compute_s + compute_s
        elif read_s >= compute_s:
            self.read_s += read_s
        else:
            self.compute_s += compute_s

    def phase(self, kernels: int, link_s: float) -> Phase:
        launch_s = kernels * self.device.launch_s
        parts = {"memory": self.read_s, "compute": self.compute_s, "launch": launch_s, "link": link_s}
        return Phase(
            bytes=self.bytes, flops=self.flops, launches=kernels, floor_s=self.floor_s, expected_s=sum(parts.values()),
            bound=max(parts, key=lambda part: parts[part]),
        )  # fmt: skip


def _link_s(device: DeviceRow, config: T5Config, reductions: int, rows: int, degree: int) -> float:
    """All-reduces of [rows, E] in fp32: latency, and each rank's traffic."""
    if degree == 1:
        return 0.0
    return reductions * (device.reduce_s + 2 * (degree - 1) / degree * rows * config.d_model * 4 / device.link_bps)


def _check(config: T5Config, dtype: str, device: DeviceRow, degree: int) -> None:
    if dtype not in device.flops:
        raise SpecInvalid(f"dtype: expected one of {sorted(device.flops)} on {device.name}, got {dtype!r}")
    if degree < 1 or config.heads % degree or config.d_ff % degree:
        raise SpecInvalid(
            f"tensor_parallel_degree: expected a divisor of {config.heads} heads and d_ff {config.d_ff}, got {degree}"
        )


def predict(config: T5Config, dtype: str, device: DeviceRow, work: Work) -> Prediction:
    """Encoder pass and decode step on `tensor_parallel_degree` such devices. Raises SpecInvalid.

    What is left out: host work, sampling, in-flight admission, caches smaller than the weights' working set.
    """
    _check(config, dtype, device, work.tensor_parallel_degree)
    return Prediction(encoder=_encode(config, dtype, device, work), step=_step(config, dtype, device, work), work=work)


def _step(config: T5Config, dtype: str, device: DeviceRow, work: Work) -> Phase:
    degree, R, c = work.tensor_parallel_degree, work.rows, work.cache_bytes
    E, I, L = config.d_model, config.inner // degree, config.decoder_layers
    total = _Sum(device, dtype)
    kind = "fp32" if work.batch <= device.untiled_slots else dtype
    for matrix in step_matrices(config, degree):
        total.add(matrix_bytes(matrix, dtype), 2.0 * R * matrix.K * matrix.N, kind)  # a few rows stay in cache
    T = work.position + 1
    self_bytes, cross_bytes = 2.0 * c * R * T * I, 2.0 * c * work.batch * work.source * I
    total.add(L * (self_bytes + cross_bytes), L * 4.0 * R * I * (T + work.source), "fp32")
    total.add((3 * L + 1) * E * (R * (4.0 + work.activation_bytes) + 4.0), 0.0, "fp32")
    return total.phase(launches(config, degree), _link_s(device, config, 3 * L + 1, R, degree))


def _encode(config: T5Config, dtype: str, device: DeviceRow, work: Work) -> Phase:
    degree, a = work.tensor_parallel_degree, work.activation_bytes
    rows = work.batch * work.source
    I, L = config.inner // degree, config.encoder_layers
    total = _Sum(device, dtype)
    for matrix in encoder_matrices(config, degree):
        traffic = a * rows * (matrix.K + matrix.N)
        total.add(matrix_bytes(matrix, dtype) + traffic, 2.0 * rows * matrix.K * matrix.N, dtype)
    total.add(L * 4.0 * a * rows * I, L * 4.0 * rows * work.source * I, "bf16" if a == 2 else "fp32")
    total.add((2 * L + 1) * (4.0 + a) * config.d_model * rows, 0.0, "fp32")
    return total.phase(_encoder_launches(config, degree), _link_s(device, config, 2 * L, rows, degree))
