"""The tables of results/published/gpu-predictions, from engines/t5/time_model.py."""

# ruff: noqa: E741, N806 - tensor letters
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engines.t5.config import T5Config, parse_config
from engines.t5.memory_model import memory
from engines.t5.time_model import DeviceRow, Work, activation_bytes, cache_bytes, device_row, launches, predict
from tests.bench.engines import shapes

ROOT = Path(__file__).resolve().parents[3]
TABLES = ROOT / "results/published/gpu-predictions/table.md"
BEGIN, END = "<!-- roofline: begin -->", "<!-- roofline: end -->"
GPUS = ("A10G", "A100-80", "H100")
DTYPES = ("fp32", "bf16", "int8", "int4")
WORK = Work(batch=4, source=32, position=19)


def config_of(model: str) -> T5Config:
    return parse_config(shapes.config(model), {}, model)


def _size(n: float) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n:.3g}"


def _ops(c: T5Config) -> Iterator[tuple[str, str, str, float, float, str]]:
    """(op, bytes, flops, their values, what multiplies) of one launch, bf16 weights and activations, WORK."""
    R, S, T, w = WORK.rows, WORK.source, WORK.position + 1, 2
    E, I, F, V = c.d_model, c.inner, c.d_ff, c.vocab
    N = WORK.batch * S
    for name, K, n in (
        ("linear qkv", E, 3 * I), ("linear attention out", I, E), ("linear cross q", E, I),
        ("linear ff in (gated)", E, 2 * F),
        ("linear ff out", F, E), ("linear head, argmax", E, V),
    ):  # fmt: skip
        yield name, "w K N", "2 R K N", w * K * n, 2.0 * R * K * n, "fp32"
    yield "attend, self", "4 R T I", "4 R T I", 4.0 * R * T * I, 4.0 * R * T * I, "fp32"
    yield "attend, cross", "4 B S I", "4 R S I", 4.0 * R * S * I, 4.0 * R * S * I, "fp32"
    yield "rms_norm", "6 R E", "4 R E", 6.0 * R * E, 4.0 * R * E, "fp32"
    yield "embed", "R E (w + 4)", "0", R * E * (w + 4.0), 0.0, "fp32"
    yield "add_shards (tp 4)", "20 R E", "4 R E", 20.0 * R * E, 4.0 * R * E, "fp32"
    yield "log_softmax", "8 R V", "4 R V", 8.0 * R * V, 4.0 * R * V, "fp32"
    yield "sample (top-p)", "132 R V", "96 R V", 132.0 * R * V, 96.0 * R * V, "fp32"
    yield "beam_step (4 of 4)", "32 R V", "32 R V", 32.0 * R * V, 32.0 * R * V, "fp32"
    yield (
        "gemm ff in, encoder",
        "w K N + 2 R (K + N)",
        "2 R K N",
        w * E * 2 * F + 2.0 * N * (E + F),
        4.0 * N * E * F,
        "bf16",
    )
    yield "attend_rows, encoder", "8 B S I", "4 B S^2 I", 8.0 * N * I, 4.0 * N * S * I, "bf16"
    yield "store_kv", "8 B S I", "0", 8.0 * N * I, 0.0, "fp32"


def _bound(size_bytes: float, flops: float, kind: str, device: DeviceRow) -> str:
    read_s, compute_s = size_bytes / device.read_bps, flops / device.flops[kind]
    if max(read_s, compute_s) < device.launch_s:
        return "launch"
    return "memory" if read_s >= compute_s else "compute"


def ops_table() -> list[str]:
    lines = [
        "| op | bytes | flops | bytes here | flops here | flop/B | " + " | ".join(GPUS) + " |",
        "|" + " --- |" * (6 + len(GPUS)),
    ]
    for op, size_formula, flop_formula, size, flops, kind in _ops(config_of("flan-t5-xxl")):
        numbers = f"{_size(size)} | {_size(flops)} | {flops / size:.2g}"
        bounds = " | ".join(_bound(size, flops, kind, device_row(g)) for g in GPUS)
        lines.append(f"| {op} | {size_formula} | {flop_formula} | {numbers} | {bounds} |")
    return lines


def _cell(config: T5Config, dtype: str, device: DeviceRow, work: Work) -> str:
    need = memory(config, dtype, work)
    if not need.fits(device):
        return f"does not fit: {need.total_bytes / 1e9:.0f} GB"
    step = predict(config, dtype, device, work).step
    return f"{step.expected_s * 1e3:.2f} ({step.bound})"


def steps_table() -> list[str]:
    lines = [
        "| model | tp | launches | dtype | " + " | ".join(f"{g}, ms (bound)" for g in GPUS) + " |",
        "|" + " --- |" * (4 + len(GPUS)),
    ]
    rows = [(model, 1, dtype) for model in shapes.SHAPES for dtype in DTYPES]
    for model, degree, dtype in [*rows, *(("flan-t5-xxl", 4, dtype) for dtype in DTYPES)]:
        config = config_of(model)
        work = replace(
            WORK, tensor_parallel_degree=degree,
            cache_bytes=cache_bytes(dtype), activation_bytes=activation_bytes(dtype),
        )  # fmt: skip
        cells = " | ".join(_cell(config, dtype, device_row(name), work) for name in GPUS)
        lines.append(f"| {model} | {degree} | {launches(config, degree)} | {dtype} | {cells} |")
    return lines


def text() -> str:
    """Everything between the markers."""
    us = device_row("A10G").launch_s * 1e6
    return "\n".join(
        [
            BEGIN,
            "Predictions of a byte model (`engines/t5/time_model.py`),"
            " by `python -m tests.bench.engines.roofline_tables`.",
            "The kernels are executed on an emulator and as interpreted PTX, and compiled for these GPUs;",
            "not yet run on one.",
            "",
            "One launch of each op: flan-t5-xxl, bf16 weights and activations, "
            f"batch {WORK.batch}, {WORK.source} source tokens, output position {WORK.position + 1}.",
            f"The bound is the larger of bytes and flops at the vendor's peaks; `launch`: both under {us:.0f} us.",
            "",
            *ops_table(),
            "",
            f"Predicted time of one decode step (a token for each of the {WORK.batch} rows), same request, decode "
            "as one CUDA graph.",
            "It assumes the shares of the peaks in `engines/t5/time_model.py`, which nobody has measured "
            "with these kernels.",
            "fp16 is as bf16; int8 and int4 have bf16 activations. Up to 16 slots decode row by row, in fp32.",
            "",
            *steps_table(),
            END,
        ]
    )


def rewritten(page: str) -> str:
    """The page with its generated part brought up to date."""
    head, rest = page.split(BEGIN)
    return head + text() + rest.split(END)[1]


def main() -> None:
    TABLES.write_text(rewritten(TABLES.read_text(encoding="utf-8")), encoding="utf-8")
    print(TABLES)


if __name__ == "__main__":
    main()
