"""`make bench-gpu` is to work when it first meets a GPU: it runs to its end on the emulator, its report is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.engines import bench_gpu, roofline_tables
from tests.kernels.build import ensure_library
from tests.kernels.cuda.sim import ROOT, build


def test_it_runs_to_its_end_on_the_emulator(tmp_path: Path) -> None:
    ensure_library()
    command = [
        sys.executable,
        "-m",
        "tests.bench.engines.bench_gpu",
        "--device",
        "cuda-sim",
        "--tiny",
        "--work",
        str(tmp_path),
        "--out",
    ]
    environment = os.environ | {"T5K_CUDA_SIM": str(build()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "out")], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (tmp_path / "out/table.md").read_text() in done.stdout
    assert "on the CPU emulator: nothing here is a time of a GPU" in done.stdout
    assert "GB/s" in done.stdout
    ran = {each["kernel"].rsplit("_f", 1)[0] for each in run["kernels"]}
    assert {"linear_i4_bf16", "gemm", "attend", "attend_rows", "rms_norm", "log_softmax", "sample", "embed"} <= ran
    assert all(each["samples_s"][0] > 0 for each in run["kernels"])
    engines = {each["engine"]: each for each in run["engines"] if each["dtype"] == "fp32"}
    dtypes = {each["dtype"]: each for each in run["engines"] if each["engine"] == "t5"}
    assert set(dtypes) == set(bench_gpu.DTYPES)
    assert not [each["absent"] for each in dtypes.values() if "absent" in each]
    assert {f"gemm_{name}" for name in ("f16", "bf16", "i8_bf16", "i4_bf16")} <= {e["kernel"] for e in run["kernels"]}
    assert not list(tmp_path.glob("tiny*")), "model folders are removed after their last use"
    assert engines["t5"]["ids_head"] == engines["transformers"]["ids_head"]
    assert "absent" not in engines["ctranslate2"]
    assert engines["tensorrt_llm"]["absent"].startswith("not installed") or engines["tensorrt_llm"]["samples_s"]


def _options(tmp_path: Path, *more: str) -> Any:
    return bench_gpu.arguments(["--device", "cuda-sim", "--work", str(tmp_path / "work"), *more])


def test_a_program_that_fails_hangs_or_lies_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    for text, limit_s, said in (
        ("print('{\"a\": 1}', flush=True)\nraise ValueError('no such kernel')", 60, "no such kernel"),
        ("print('{\"a\": 1}', flush=True)\nimport time\ntime.sleep(600)", 2, "did not end within 2 s"),
        ("print('{\"a\": 1}', flush=True)\nimport os\nos.abort()", 60, "ended with status -6"),
    ):
        script.write_text(text)
        with bench_gpu.child(script, [], limit_s) as each:
            replies = each.replies()
            assert next(replies) == {"a": 1}, "what came before is kept"
            with pytest.raises(RuntimeError, match=said):
                next(replies)


def test_a_report_holds_what_came_before_a_failure(tmp_path: Path) -> None:
    run = {
        "device": "cuda", "published": "flan-t5-xxl: bf16", "kernels": [], "engines": [], "failed": [],
        "facts": _device("NVIDIA H100 80GB HBM3", 1, 80e9) | {"arch": 90, "driver_version": 12080,
                                                               "nvidia_smi": ["clocks", "1980 MHz, 570.86"]},
    }  # fmt: skip
    report = bench_gpu.Report(tmp_path / "out", run)
    with report.section("first"):
        run["kernels"].append({"op": "x", "bytes": 1e9, "flops": 1.0, "kind": "fp32", "samples_s": [1e-3]})
    with report.section("second"):
        raise OSError("no space left")
    with report.section("third"):
        pass
    written = (tmp_path / "out/table.md").read_text()
    assert "sm_90, 80 GB, driver for CUDA 12.8, 1980 MHz, 570.86." in written
    assert "| x | 1000.00 |" in written
    assert "Failed: second: OSError: no space left" in written
    assert json.loads((tmp_path / "out/run.json").read_text())["failed"] == run["failed"]


def test_ours_comes_first_and_nothing_begins_that_cannot_end(tmp_path: Path) -> None:
    options = _options(tmp_path, "--budget-s", "100")
    found = bench_gpu.in_order(("flan-t5-xxl", "fp32", 4), options)
    assert found[:3] == [
        ("flan-t5-base", "bf16", 1, "t5"), ("flan-t5-xl", "bf16", 1, "t5"), ("flan-t5-xxl", "fp32", 4, "t5"),
    ]  # fmt: skip
    assert len(found) == len(set(found)) == 4 * 16
    late = bench_gpu.engine_row(found[0], options, None, bench_gpu.Budget(3.0))
    assert late["absent"] == "skipped: the time budget of 100 s is used up"
    names = bench_gpu.folders("flan-t5-xxl", "bf16", 1, "t5")
    said = bench_gpu.has_room("flan-t5-xxl", "bf16", tmp_path, 60.0, names)
    assert said.startswith(("skipped: 45 GB to write", "needs 45"))
    (tmp_path / "flan-t5-xxl").mkdir()
    (tmp_path / "flan-t5-xxl-bf16-tp1").mkdir()
    assert bench_gpu.has_room("flan-t5-xxl", "bf16", tmp_path, 60.0, names) == "", "what is there is not written again"
    assert bench_gpu.Budget(0).left_s == 3600.0
    assert 90 < bench_gpu.Budget(100).left_s <= 100


def test_writing_a_model_is_ended_with_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that takes for ever: the row says so in time, and what is half-written goes."""
    ensure_library()
    slow = tmp_path / "slow.py"
    slow.write_text("import sys, pathlib, time\npathlib.Path(sys.argv[1], sys.argv[2]).mkdir()\ntime.sleep(600)\n")
    monkeypatch.setattr(bench_gpu, "WRITER", slow)
    monkeypatch.setattr(bench_gpu, "LEAST_S", 1.0)
    monkeypatch.setattr(bench_gpu.gpu_worker, "missing", lambda engine, device: "")
    options = _options(tmp_path)
    asked = ("flan-t5-small", "bf16", 1, "t5")
    with pytest.raises(RuntimeError, match="did not end within 2 s"):
        bench_gpu.engine_row(asked, options, None, bench_gpu.Budget(2.0))
    assert (options.work / "flan-t5-small").exists()
    bench_gpu.tidy(asked, [("flan-t5-small", "int8", 1, "transformers")], options)
    assert (options.work / "flan-t5-small").exists(), "needed later"
    bench_gpu.tidy(asked, [], options)
    assert not list(options.work.iterdir())


def test_folders_that_were_there_before_stay(tmp_path: Path) -> None:
    (tmp_path / "work/flan-t5-base").mkdir(parents=True)
    options = _options(tmp_path)
    bench_gpu.tidy(("flan-t5-base", "bf16", 1, "t5"), [], options)
    assert (tmp_path / "work/flan-t5-base").exists()


def test_without_a_gpu_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_library()
    monkeypatch.setattr(bench_gpu.cuda, "DRIVER", "libcuda-that-nobody-has.so.1")
    with pytest.raises(SystemExit) as left:
        bench_gpu.main(["--device", "cuda"])
    assert left.value.code == 3
    assert "no CUDA driver: libcuda-that-nobody-has.so.1" in capsys.readouterr().err


def _device(name: str, devices: int, memory_bytes: float) -> dict[str, Any]:
    return {"name": name, "devices": devices, "memory_bytes": memory_bytes, "are_peers": True}


@pytest.mark.parametrize(
    ("found", "plan"),
    [
        (_device("NVIDIA A10G", 4, 24e9), ("fp32", 4)),
        (_device("NVIDIA A10G", 3, 24e9), ("bf16", 2)),
        (_device("NVIDIA A10G", 1, 24e9), ("int8", 1)),
        (_device("NVIDIA H100 80GB HBM3", 1, 80e9), ("fp32", 1)),
        (_device("NVIDIA A100-SXM4-40GB", 1, 40e9), ("bf16", 1)),
        (_device("NVIDIA T4", 1, 12e9), ("int4", 1)),
    ],
)
def test_the_published_configuration_is_the_best_that_fits_and_says_so(
    found: dict[str, Any], plan: tuple[str, int]
) -> None:
    dtype, degree, why = bench_gpu.plan(roofline_tables.config_of("flan-t5-xxl"), found, lambda *_: "")
    assert (dtype, degree) == plan
    assert why.startswith(f"{dtype} on {'one GPU' if degree == 1 else f'{degree} GPUs, peer access'}")
    assert why.endswith(": as published") == (plan == ("fp32", 4))


def test_what_disk_or_time_do_not_hold_is_planned_narrower_and_says_so() -> None:
    """flan-t5-xxl in fp32 fits an H200 but, beside its checkpoint, not a disk of 64 GiB."""
    found = _device("NVIDIA H200", 1, 141e9)
    config = roofline_tables.config_of("flan-t5-xxl")
    short = "needs 67 GB under work, where 60 GB are free"
    dtype, degree, why = bench_gpu.plan(config, found, lambda dtype, degree: short if dtype == "fp32" else "")
    assert (dtype, degree) == ("bf16", 1)
    assert why.endswith(f"was published; fp32 {short}")
    assert bench_gpu.plan(config, found, lambda *_: short)[2].startswith("int4 on one GPU, although")


def test_rows_are_found_by_the_driver_s_names() -> None:
    for name, memory_bytes, row in (
        ("NVIDIA A10G", 24e9, "A10G"), ("NVIDIA A100-SXM4-80GB", 80e9, "A100-80"),
        ("NVIDIA A100-PCIE-40GB", 40e9, "A100-40"), ("NVIDIA H100 80GB HBM3", 80e9, "H100"), ("NVIDIA L4", 24e9, "L4"),
        ("NVIDIA L40S", 48e9, "L40S"), ("NVIDIA H100 PCIe", 80e9, "H100-PCIe"), ("NVIDIA H100 NVL", 94e9, "H100-NVL"),
        ("NVIDIA H200", 141e9, "H200"),
    ):  # fmt: skip
        found = bench_gpu.row_of(_device(name, 1, memory_bytes))
        assert found is not None
        assert found.name == row
    for name in ("NVIDIA GeForce RTX 3060", "NVIDIA L40", "NVIDIA H200 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        assert bench_gpu.row_of(_device(name, 1, 12e9)) is None, "no share of a peak is better than a wrong one"


def test_the_report_of_a_gpu_gives_rates_and_shares_of_the_peaks() -> None:
    run = {
        "device": "cuda", "facts": _device("NVIDIA H100 80GB HBM3", 1, 80e9), "published": "flan-t5-xxl: bf16",
        "new": 20, "source": 32,
        "kernels": [
            {"op": "linear qkv, bf16", "bytes": 3.35e9, "flops": 6.69e12, "kind": "fp32", "samples_s": [2e-3, 2e-3, 9]}
        ],
        "engines": [
            {"model": "m", "engine": "t5", "dtype": "bf16", "degree": 1, "new": 20, "samples_s": [0.1, 0.2, 0.3],
             "first_token_s": [0.05], "predicted_s": 0.15},
            {"model": "m", "engine": "ctranslate2", "dtype": "bf16", "degree": 1, "absent": "sees no GPU"},
        ],
    }  # fmt: skip
    said = bench_gpu.table(run)
    assert "| linear qkv, bf16 | 3350.00 | 1675 | 50% | 3345.00 | 5000% |" in said
    assert "| m | t5 | bf16 | 1 | 200.0 (100.0 to 300.0) | 400 | 50.0 | 150.0 |" in said
    assert "| m | ctranslate2 | bf16 | 1 | sees no GPU | | | |" in said
    assert "emulator" not in said
