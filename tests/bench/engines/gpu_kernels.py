"""Each CUDA kernel alone, through the driver's functions: seconds a launch, and the bytes and flops it has to move.

Weights rotate over copies that are larger together than any L2, so they come from memory; activations stay in L2, as
in a step. A launch's time is that of a graph of many, by the device's events, divided. Records and library calls are
the tests' own.
"""

# ruff: noqa: E741, N803, N806 - tensor letters
from __future__ import annotations

import ctypes as c
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.t5 import cuda
from engines.t5.config import T5Config, parse_config
from engines.t5.cuda import activations
from tests.bench.engines import shapes
from tests.kernels.cuda import jobs, reference
from tests.kernels.cuda.gpu import Gpu
from tests.kernels.cuda.sim import Sim

BATCH = 4
CAPTURE_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
SECONDS = 0.3
"""Of one kernel, about: three samples and a warm-up."""
L2_BYTES = 256 << 20  # beyond every L2 there is (H100: 50 MB)
FORMATS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "i8", "int4": "i4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel at one size. `records` differ in their weights only."""

    op: str
    kernel: str
    records: list[c.Structure]
    grid: tuple[int, ...]
    threads: int
    shared: int = 0
    size_bytes: float
    flops: float
    kind: str  # whose peak: fp32, bf16


def _tiled(values: np.ndarray, dwords: int) -> np.ndarray:
    return np.resize(values.view(np.uint32).ravel(), dwords)


def _weights(form: str, K: int, N: int) -> np.ndarray:
    """Packed dwords of a matrix: valid numbers, the same few over and over."""
    packed, _, _ = reference.pack(form, np.random.default_rng(0).normal(size=(64, 16)))
    per_k = len(packed) // 64
    return _tiled(packed, per_k * (-(-K // 32) * 32) * reference.panels(N) + 0)


def _linear(
    w: jobs.Panels,
    x: tuple[int, int],
    y: tuple[int, int, int],
    R: int,
    epilogue: int,
    gpu: tuple[int, int | None],
) -> jobs.Linear:
    """x: memory, stride. y: memory, stride, columns that exist. gpu: scales of int8 panels, maxima of the head."""
    job = jobs.Linear(w, *x, *y[:2], R, y[2], epilogue, jobs.ACTIVATIONS.index("gelu_new"), out_scale=1.0)
    job.scale, job.best = gpu
    job.best_stride = reference.panels(y[2])
    return job


def linears(gpu: Sim, config: T5Config, dtype: str, R: int, copies_bytes: int) -> Iterator[Launch]:
    """The matrices of a decoder layer and the head, rows one by one, activations as the engine keeps them."""
    E, I, F, V = config.d_model, config.inner, config.d_ff, config.vocab
    form, kind = FORMATS[dtype], FORMATS[activations(dtype)]
    x = gpu.up(reference.encode(kind, np.random.default_rng(1).normal(size=(R, max(E, I, F) + 64))))
    for op, K, N, epilogue in (
        ("qkv", E, 3 * I, jobs.STORE), ("out", I, E, jobs.ADD), ("ff in", E, F, jobs.GATED), ("ff out", F, E, jobs.ADD),
        ("head", E, V, jobs.ARGMAX),
    ):  # fmt: skip
        columns = 2 * N if epilogue == jobs.GATED else N
        data = _weights(form, K, columns)
        panels = reference.panels(columns)
        copies = [gpu.up(data) for _ in range(max(1, min(8, copies_bytes // data.nbytes)))]
        y, best = gpu.up(np.zeros((R, columns + 64), np.float32)), gpu.empty(R * panels * 8)
        scale = gpu.up(np.full(panels * 16, 0.01, np.float32))
        records: list[c.Structure] = [
            _linear(
                jobs.Panels(w, 0, K, columns), (x, max(E, I, F) + 64), (y, columns + 64, N), R, epilogue, (scale, best)
            )
            for w in copies
        ]
        yield Launch(
            op=f"linear {op}, {dtype}", kernel=f"linear_{form}_{kind}", records=records,
            grid=(reference.panels(N), -(-R // 8)), threads=256, size_bytes=float(data.nbytes),
            flops=2.0 * R * K * columns, kind="fp32",
        )  # fmt: skip


def gemms(gpu: Sim, config: T5Config, dtype: str, R: int) -> Iterator[Launch]:
    """Encoder products on tensor cores; integer weights are widened on the way."""
    form, kind = FORMATS[dtype], FORMATS[activations(dtype)]
    name = kind if form == kind else f"{form}_{kind}"
    for op, K, N in (("qkv", config.d_model, 3 * config.inner), ("ff out", config.d_ff, config.d_model)):
        data = _weights(form, K, N)
        x = gpu.up(reference.encode(kind, np.random.default_rng(2).normal(size=(R, K + 64))))
        y, panels = gpu.up(np.zeros((R, N + 64), np.float32)), reference.panels(N)
        scale = gpu.up(np.full(panels * 16, 0.01, np.float32))
        record = _linear(jobs.Panels(gpu.up(data), 0, K, N), (x, K + 64), (y, N + 64, N), R, jobs.STORE, (scale, None))
        yield Launch(
            op=f"gemm {op}, {dtype}", kernel=f"gemm_{name}", records=[record], grid=(-(-panels // 4), -(-R // 64)),
            threads=128, size_bytes=data.nbytes + R * 2.0 * (K + N), flops=2.0 * R * K * N, kind="bf16",
        )  # fmt: skip


def _caches(gpu: Sim, config: T5Config, kind: str, keys: int) -> tuple[int, int, int]:
    capacity = -(-keys // 16) * 16
    heads, D = config.heads, config.d_kv
    sizes = (heads * capacity * D, heads * capacity * reference.panels(D) * 16)
    k, v = (gpu.up(reference.encode(kind, np.full(size, 0.1))) for size in sizes)
    return k, v, capacity


def attentions(gpu: Sim, config: T5Config, dtype: str, batch: int, keys: int, source: int) -> Iterator[Launch]:
    """Decode attention over a cache, and the encoder's over its own rows: in 16 bits on tensor cores."""
    kind = FORMATS[dtype]
    size = 4 if dtype == "fp32" else 2
    heads, D, I, W = config.heads, config.d_kv, config.inner, config.max_distance
    bias = gpu.up(np.zeros(heads * (2 * W + 32), np.float32))
    q, out = (gpu.up(reference.encode(kind, np.full((batch * source, 3 * I), 0.1))) for _ in range(2))
    for op, T, R in (("attend", keys, 1), ("attend_rows", source, source)):
        blocks = (jobs.Attend * batch)()
        for b in range(batch):
            k, v, capacity = _caches(gpu, config, kind, T)
            at = b * R * 3 * I * size
            cache = jobs.HeadCache(k, v, capacity, size)
            blocks[b] = jobs.Attend(
                q + at, 3 * I, out + at, 3 * I, cache, None, None, bias, W, heads, R, D, T, T - 1 if R == 1 else 0
            )
        record = jobs.AttendLaunch(gpu.up(np.frombuffer(blocks, np.uint8)), None, 1)
        is_step = R == 1
        yield Launch(
            op=f"{op}, {dtype}", kernel=f"{op}_{kind}", records=[record],
            grid=(heads, batch, 1) if is_step else (-(-source // 16), heads, batch), threads=128,
            shared=4 * (D + -(-T // 16) * 16) if is_step else 4 * (16 * D + 16 * 32 + 2 * W + 32),
            size_bytes=float(batch * I * size * (2 * T + 2 * R)), flops=4.0 * batch * R * T * I,
            kind="fp32" if is_step or size == 4 else "bf16",
        )  # fmt: skip


def rows(gpu: Sim, config: T5Config, batch: int) -> Iterator[Launch]:
    """Norm, embedding and what follows the logits."""
    E, V = config.d_model, config.vocab
    x, y, w = (gpu.up(np.ones((batch, n), np.float32)) for n in (E, E, E))
    for dtype, each in (("fp32", 8.0), ("bf16", 6.0), ("fp16", 6.0)):
        yield Launch(
            op=f"rms_norm, {dtype}", kernel=f"rms_norm_{FORMATS[dtype]}",
            records=[jobs.RmsNorm(x, E, w, y, E, batch, E, 1e-6, 1.0)], grid=(batch,), threads=256,
            size_bytes=each * batch * E, flops=4.0 * batch * E, kind="fp32",
        )  # fmt: skip
    table, ids = gpu.up(np.ones((64, E), np.float32)), gpu.up(np.arange(batch, dtype=np.int32))
    yield Launch(
        op="embed", kernel="embed_f32", records=[jobs.Embed(table, 0, ids, y, E, batch, E)], grid=(batch,), threads=256,
        size_bytes=8.0 * batch * E, flops=0.0, kind="fp32",
    )  # fmt: skip
    logits = gpu.up(np.random.default_rng(3).normal(size=(batch, V)).astype(np.float32))
    out, token = gpu.up(np.zeros((batch, V), np.float32)), gpu.empty(batch * 4)
    yield Launch(
        op="log_softmax", kernel="log_softmax", records=[jobs.LogSoftmax(logits, out, token, V, V, V)], grid=(batch,),
        threads=1024, size_bytes=8.0 * batch * V, flops=4.0 * batch * V, kind="fp32",
    )  # fmt: skip
    draws = (jobs.SampleRow * batch)(*[jobs.SampleRow(7, r, 1.0, 0.9, 50) for r in range(batch)])
    record = jobs.Sample(logits, gpu.up(np.frombuffer(draws, np.uint8)), token, V, V)
    yield Launch(
        op="sample top-k top-p", kernel="sample", records=[record], grid=(batch,), threads=256,
        size_bytes=67.0 * 4 * batch * V, flops=96.0 * batch * V, kind="fp32",
    )  # fmt: skip


@contextmanager
def graph_of(gpu: Sim, launch: Launch, count: int, stream: c.c_void_p) -> Iterator[c.c_void_p]:
    """`count` launches as one executable graph: the host gives it away in one call, as the engine does with a step."""
    graph, executable = c.c_void_p(), c.c_void_p()
    gpu.call("cuStreamBeginCapture_v2", stream, CAPTURE_RELAXED)
    for i in range(count):
        record = launch.records[i % len(launch.records)]
        gpu.launch(launch.kernel, record, grid=launch.grid, threads=launch.threads, shared=launch.shared, stream=stream)
    gpu.call("cuStreamEndCapture", stream, c.byref(graph))
    gpu.call("cuGraphInstantiateWithFlags", c.byref(executable), graph, c.c_ulonglong(0))
    try:
        yield executable
    finally:
        gpu.call("cuGraphExecDestroy", executable)
        gpu.call("cuGraphDestroy", graph)


def measure(gpu: Sim, launch: Launch, seconds: float) -> dict[str, Any]:
    """Seconds a launch, the gap to the next one in a graph included: three samples of about `seconds` / 4, all kept, by
    the device's own clock between two events; one launch if 0."""
    stream, begin, end = c.c_void_p(), c.c_void_p(), c.c_void_p()
    gpu.call("cuStreamCreate", c.byref(stream), 1)
    for event in (begin, end):
        gpu.call("cuEventCreate", c.byref(event), 0)

    def sampled(count: int, samples: int) -> list[float]:
        found, milliseconds = [], c.c_float()
        with graph_of(gpu, launch, count, stream) as executable:
            for _ in range(samples):
                gpu.call("cuEventRecord", begin, stream)
                gpu.call("cuGraphLaunch", executable, stream)
                gpu.call("cuEventRecord", end, stream)
                gpu.call("cuStreamSynchronize", stream)
                gpu.call("cuEventElapsedTime", c.byref(milliseconds), begin, end)
                found.append(milliseconds.value / 1e3 / count)
        return found

    count, samples = 1, 1
    if seconds:
        about_s = min(sampled(max(8, len(launch.records)), 2))
        count, samples = max(8, min(2000, int(seconds / 4 / max(about_s, 1e-7)))), 4
    samples_s = sampled(count, samples)[-3:]  # of four the first warms up
    for event in (begin, end):
        gpu.call("cuEventDestroy_v2", event)
    gpu.call("cuStreamDestroy_v2", stream)
    return {
        "op": launch.op, "kernel": launch.kernel, "bytes": launch.size_bytes, "flops": launch.flops,
        "kind": launch.kind, "launches_a_sample": count, "samples_s": samples_s,
    }  # fmt: skip


def groups(config: T5Config, *, is_tiny: bool) -> dict[str, Callable[[Sim], Iterator[Iterator[Launch]]]]:
    """Kernels by what they serve, the most telling first. Each group is measured in a process of its own: a kernel that
    fails takes its context with it."""
    copies, keys, source = (0, 20, 24) if is_tiny else (L2_BYTES, 128, 512)

    def of(dtype: str) -> Callable[[Sim], Iterator[Iterator[Launch]]]:
        def parts(gpu: Sim) -> Iterator[Iterator[Launch]]:
            yield linears(gpu, config, dtype, BATCH, copies)
            if dtype != "fp32":
                yield gemms(gpu, config, dtype, BATCH * source)
            if dtype not in ("int8", "int4"):
                yield attentions(gpu, config, dtype, BATCH, keys, source)

        return parts

    found = {dtype: of(dtype) for dtype in ("bf16", "int8", "fp32", "fp16", "int4")}
    return found | {"rows": lambda gpu: iter((rows(gpu, config, BATCH),))}


def main(device: str, model: str, group: str, is_tiny: str) -> None:
    """One group as lines of JSON; device memory is given back between its parts."""
    if is_tiny:
        shapes.make_tiny()
    gpu = Sim(Path(cuda.target(device).driver)) if device == "cuda-sim" else Gpu()
    config = parse_config(shapes.config(model), {}, model)
    for part in groups(config, is_tiny=bool(is_tiny))[group](gpu):
        for launch in part:
            print(json.dumps(measure(gpu, launch, 0.0 if is_tiny else SECONDS)), flush=True)
        gpu.reset()


if __name__ == "__main__":
    main(*sys.argv[1:])
