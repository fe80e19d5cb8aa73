"""The byte model: equal to what is packed and launched, and within a band of what was measured on a CPU."""

from __future__ import annotations

import ctypes as c
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from engines import t5
from engines.errors import SpecInvalid
from engines.t5 import cuda
from engines.t5.config import read_config
from engines.t5.memory_model import memory, smallest_degree, weights_bytes
from engines.t5.packing_plan import plan, resolve_dtype
from engines.t5.time_model import (
    DEVICES,
    DeviceRow,
    Work,
    cache_bytes,
    cpu_row,
    device_row,
    launches,
    predict,
)
from tests.bench.engines import roofline_tables, shapes
from tests.engines.t5 import checkpoints as ck
from tests.kernels.build import ensure_library
from tests.kernels.cuda.sim import build

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.heavy

XXL = roofline_tables.config_of("flan-t5-xxl")


def _published() -> tuple[dict[str, Any], dict[str, Any]]:
    run = json.loads((ROOT / "results/published/bench-engines/run.json").read_text())
    return run["machine"], {m["model"]: m for m in run["models"]}


def _cells(model: str) -> list[tuple[str, dict[str, Any]]]:
    """(dtype, row) of every measured cell of our engine without extra options."""
    ours = [
        row for row in _published()[1][model]["rows"] if row["variant"].startswith("t5 ") and "=" not in row["variant"]
    ]
    return [(row["variant"][3:], row) for row in ours]


def _predicted(model: str, dtype: str, row: dict[str, Any]) -> tuple[float, float]:
    """(tokens/s, step time) over the measured ones."""
    machine, models = _published()
    threads = str(row["threads"])
    cpu = cpu_row(models[model]["read_bytes_per_s"][threads], machine["probes"][threads]["fma_gflops"] * 1e9, 24e9)
    work = Work(batch=row["batch"], source=64, position=32, cache_bytes=cache_bytes(dtype))
    found = predict(roofline_tables.config_of(model), dtype, cpu, work)
    tokens_per_s = row["batch"] * 64 / found.request_s(64)
    return tokens_per_s / row["tokens_per_s"], found.step.expected_s / (row["step_ms"] / 1e3)


MODELS = ["flan-t5-small", "flan-t5-base", "flan-t5-large"]
BANDS = {"flan-t5-small": ((0.6, 1.2), (0.8, 1.8))}
"""Where a step's weights fit the CPU's own caches (small in int8, int4) they come faster than the model reads them."""


@pytest.mark.parametrize(
    ("model", "dtype", "row"),
    [
        pytest.param(model, dtype, row, id=f"{model}-{dtype}-{row['threads']}x{row['batch']}")
        for model in MODELS
        for dtype, row in _cells(model)
    ],
)
def test_the_model_comes_within_its_band_of_the_published_cpu_run(model: str, dtype: str, row: dict[str, Any]) -> None:
    """tokens/s within 0.75 to 1.2 of the measured ones for every dtype, a step within 0.8 to 1.45.

    Nothing was fitted to these rows: the model takes the machine's bandwidth and FMA rate and the rates of single
    products (CPU_RATES).
    """
    tokens, step = _predicted(model, dtype, row)
    of_tokens, of_step = BANDS.get(model, ((0.75, 1.2), (0.8, 1.45)))
    assert of_tokens[0] <= tokens <= of_tokens[1]
    assert of_step[0] <= step <= of_step[1]


@pytest.mark.parametrize(("model", "cells"), [("flan-t5-small", 30), ("flan-t5-base", 30), ("flan-t5-large", 15)])
def test_over_all_cells_the_model_is_neither_high_nor_low(model: str, cells: int) -> None:
    ratios = sorted(_predicted(model, dtype, row)[0] for dtype, row in _cells(model))
    assert len(ratios) == cells  # dtypes, batch sizes, threads
    assert 0.9 < ratios[len(ratios) // 2] < 1.1


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "w8a8", "int4"])
@pytest.mark.parametrize("model", ["flan-t5-small", "flan-t5-xl"])
def test_weight_bytes_are_those_of_the_packing_plan(model: str, dtype: str) -> None:
    config = roofline_tables.config_of(model)
    names = frozenset(name for name, _, _ in shapes.tensors(model))
    planned = plan(config, resolve_dtype(dtype), 1, names)
    assert weights_bytes(config, dtype) == pytest.approx(sum(t.size_bytes for t in planned), rel=0.006)
    shards = [t for t in plan(config, resolve_dtype(dtype), 2, names) if t.rank == 0]
    assert weights_bytes(config, dtype, 2) == pytest.approx(sum(t.size_bytes for t in shards), rel=0.01)


def test_a_step_streams_the_bytes_that_the_bench_counts() -> None:
    streamed = _published()[1]["flan-t5-small"]["streamed_bytes_per_step"]
    config = roofline_tables.config_of("flan-t5-small")
    for dtype in ("fp32", "bf16", "int8", "int4"):
        step = predict(config, dtype, cpu_row(1e9, 1e9, 1e9), Work(source=1, position=0)).step
        assert step.bytes == pytest.approx(streamed[f"t5 {dtype}"], rel=0.02)


@pytest.mark.parametrize(("name", "degree"), [("flan", 1), ("umt5", 2), ("byt5", 1)])
def test_launches_are_those_of_the_engine(name: str, degree: int, tmp_path: Path, monkeypatch: Any) -> None:
    ensure_library()
    library = c.CDLL(str(build()))
    library.sim_launches.restype = c.c_size_t
    monkeypatch.setenv("T5K_CUDA_SIM", str(build()))
    assert not cuda.missing("cuda-sim")
    member = next(m for m in ck.FAMILY if m.name == name)
    folder = ck.save(ck.build(member), tmp_path, member)
    counts = []
    with t5.load(folder, device="cuda-sim", tensor_parallel_degree=degree) as engine:
        for tokens in (2, 3):
            before = library.sim_launches()
            engine.generate([[5, 9, 1]], max_new_tokens=tokens, ignore_eos=True)
            counts.append(library.sim_launches() - before)
    config = read_config(folder)
    # One simulated device runs the linears of all ranks: five matrices a layer, attention apart, and the head.
    extra = (degree - 1) * (6 * config.decoder_layers + 1)
    assert counts[1] - counts[0] == launches(config, degree) + extra


@pytest.mark.parametrize(
    ("dtype", "device", "degree", "weight_bytes", "read_bps", "reduce_s"),
    [
        ("fp32", "A10G", 4, 4, 0.87 * 600e9, 36e-6), ("bf16", "A10G", 4, 2, 0.87 * 600e9, 36e-6),
        ("int8", "A10G", 4, 1, 0.85 * 600e9, 36e-6), ("int8", "A10G", 1, 1, 0.85 * 600e9, 0),
        ("int4", "A10G", 1, 0.5625, 0.80 * 600e9, 0), ("fp32", "H100", 1, 4, 0.82 * 3350e9, 0),
        ("bf16", "H100", 1, 2, 0.82 * 3350e9, 0), ("int8", "H100", 1, 1, 0.78 * 3350e9, 0),
    ],
)  # fmt: skip
def test_xxl_at_batch_four_agrees_with_the_arithmetic_done_by_hand(
    dtype: str, device: str, degree: int, weight_bytes: float, read_bps: float, reduce_s: float
) -> None:
    """All but the norms' traffic and int8's scales, of which a step has less than a percent. An all-reduce on PCIe:
    30 us, and 6 us for 4 rows of 4096 numbers."""
    layers, cached = 24, 21 + 32  # own positions, source
    layer, head = 6 * 4096 * 4096 + 3 * 4096 * 10240, 4096 * 32128
    head_bytes = 1 if dtype == "int4" else weight_bytes
    read_bytes = layers * layer * weight_bytes + head * head_bytes + layers * 2 * 4 * cached * 4096 * 4
    launches_s = (layers * (14 if degree > 1 else 11) + 5) * 2e-6
    by_hand_s = read_bytes / degree / read_bps + launches_s + (3 * layers + 1) * reduce_s
    step = predict(XXL, dtype, device_row(device), Work(batch=4, tensor_parallel_degree=degree)).step
    assert by_hand_s < step.expected_s < 1.01 * by_hand_s


@pytest.mark.parametrize("device", list(DEVICES.values()), ids=lambda d: d.name)
def test_predictions_move_the_right_way(device: DeviceRow) -> None:
    def ms(**changes: Any) -> float:
        return predict(XXL, "bf16", device, replace(Work(batch=4), **changes)).step.expected_s * 1e3

    floor = predict(XXL, "bf16", device, Work(batch=4))
    assert 0 < floor.step.floor_s < floor.step.expected_s
    assert 0 < floor.encoder.floor_s < floor.encoder.expected_s
    assert ms(position=500) > ms()
    assert ms(source=2000) > ms()
    assert ms(batch=64) > ms()
    assert ms(tensor_parallel_degree=2) < ms()
    assert ms(beams=4) > ms(batch=4)
    # Beams of a source share its cross-attention cache; separate sources do not.
    assert ms(batch=4, beams=4, source=1000) < ms(batch=16, source=1000)
    assert predict(XXL, "int8", device, Work()).step.bytes < predict(XXL, "bf16", device, Work()).step.bytes
    faster = replace(device, read_bps=2 * device.read_bps)
    assert predict(XXL, "fp32", faster, Work()).step.expected_s < predict(XXL, "fp32", device, Work()).step.expected_s


def test_small_models_are_bound_by_launches_and_large_ones_by_memory() -> None:
    h100 = device_row("H100")
    assert predict(roofline_tables.config_of("flan-t5-small"), "bf16", h100, Work()).step.bound == "launch"
    assert predict(XXL, "bf16", h100, Work()).step.bound == "memory"
    assert predict(XXL, "bf16", h100, Work(batch=16, source=512)).encoder.bound == "compute"
    assert predict(XXL, "bf16", device_row("A10G"), Work(tensor_parallel_degree=8)).step.bound in ("link", "memory")


def test_what_fits_is_arithmetic_that_can_be_read() -> None:
    a10g, work = device_row("A10G"), Work(batch=4)
    assert not memory(XXL, "fp32", work).fits(a10g)
    assert memory(XXL, "fp32", replace(work, tensor_parallel_degree=4)).fits(a10g)
    assert memory(XXL, "int8", work).fits(a10g)
    assert memory(XXL, "fp32", work).fits(device_row("H100"))
    assert smallest_degree(XXL, "fp32", a10g, work) == 4
    assert smallest_degree(XXL, "int8", a10g, work) == 1
    assert smallest_degree(XXL, "fp32", replace(a10g, memory_bytes=3e9), work) is None
    message = memory(XXL, "fp32", work).explain(a10g)
    assert message.startswith("47.5 GB on each of 1 (weights 44.54, keys and values 2.01,")
    assert message.endswith("A10G has 24.0 GB: does not fit")


def test_longer_requests_need_more_memory() -> None:
    base = memory(XXL, "bf16", Work())
    assert memory(XXL, "bf16", Work(), max_source=4096).kv_bytes > base.kv_bytes
    assert memory(XXL, "bf16", Work(), max_target=1024).kv_bytes > base.kv_bytes
    assert memory(XXL, "bf16", Work(batch=8)).workspace_bytes > base.workspace_bytes
    assert memory(XXL, "bf16", Work(cache_bytes=2)).kv_bytes == base.kv_bytes / 2
    assert base.total_bytes == pytest.approx(
        sum((base.weights_bytes, base.kv_bytes, base.workspace_bytes, base.reserve_bytes))
    )


def test_unknown_names_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(SpecInvalid, match=r"expected one of \['A100-40', .*'H100', .*'L4', 'L40S'\], got 'A10'"):
        device_row("A10")
    with pytest.raises(SpecInvalid, match="on H100, got 'w8a8'"):
        predict(XXL, "w8a8", device_row("H100"), Work())
    with pytest.raises(SpecInvalid, match="got 'fp8'"):
        memory(XXL, "fp8", Work())
    with pytest.raises(SpecInvalid, match="a divisor of 64 heads and d_ff 10240, got 3"):
        predict(XXL, "bf16", device_row("H100"), Work(tensor_parallel_degree=3))


@pytest.mark.parametrize("device", ["L4", "A10G", "H100"])
def test_a_larger_model_takes_longer_and_its_step_nearly_as_much_longer_as_it_is_larger(device: str) -> None:
    names = ("flan-t5-small", "flan-t5-base", "flan-t5-large", "flan-t5-xl", "flan-t5-xxl")
    found = [predict(roofline_tables.config_of(name), "fp32", device_row(device), Work()) for name in names]
    for smaller, larger in pairwise(found):
        assert smaller.encoder.expected_s < larger.encoder.expected_s
        assert 1 < larger.step.expected_s / smaller.step.expected_s < larger.step.bytes / smaller.step.bytes


def test_the_published_predictions_are_what_the_model_says_now() -> None:
    page = roofline_tables.TABLES.read_text(encoding="utf-8")
    assert page == roofline_tables.rewritten(page), "run python -m tests.bench.engines.roofline_tables"
    assert "not yet run on one" in page
