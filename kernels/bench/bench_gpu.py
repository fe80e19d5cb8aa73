"""The bundled engine on a GPU: bandwidth of each kernel, tokens/s, and the published configuration beside its rivals.

    make bench-gpu                                     # on a machine with a GPU
    python kernels/bench/bench_gpu.py --device cuda-sim --tiny   # anywhere: every line runs, no time means anything

The published configuration is flan-t5-xxl, batch 4, 20 new tokens, fp32 over 4 GPUs. With 4 GPUs that is run, or
the widest dtype that fits; with fewer, the widest that fits 2 or 1; the table says which. Weights are random: they
decide nothing about time. Writes run.json (every sample, clocks included) and table.md, then prints the table.
"""

from __future__ import annotations

import argparse
import ctypes as c
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import gpu_kernels  # noqa: E402 - after the path is set: this is a script
import gpu_worker  # noqa: E402
import shapes  # noqa: E402

from engines.t5 import cuda, native  # noqa: E402
from engines.t5.config import T5Config, parse_config  # noqa: E402
from engines.t5.footprint import memory  # noqa: E402
from engines.t5.partition import is_partition, partition  # noqa: E402
from engines.t5.roofline import DEVICES, DeviceRow, Work, activation_bytes, predict  # noqa: E402

BATCH, NEW, SOURCE = 4, 20, 32
PUBLISHED_GPUS = 4
TINY_NEW, TINY_SOURCE, TINY_VOCAB = 3, 6, 480
WIDEST_FIRST = ("fp32", "bf16", "int8", "int4")
DTYPES = ("fp32", "bf16", "fp16", "int8", "int4")
TINY = ("tiny", (64, 128, 4, 16, 2))
WORKER = Path(__file__).with_name("gpu_worker.py")
EMULATOR = "on the CPU emulator: nothing here is a time of a GPU"


def facts(device: str) -> dict[str, Any]:
    """The device as its driver describes it, clocks where nvidia-smi is. Raises SystemExit(3) if there is none."""
    reason = cuda.missing(device)
    if reason:
        print(f"bench-gpu: {reason}", file=sys.stderr)
        sys.exit(3)
    target, about = cuda.target(device), native.Cuda()
    native.library().t5k_cuda_look(target.driver.encode(), c.byref(about), c.byref(native.Error()))
    found: dict[str, Any] = {
        "name": about.name.decode(), "devices": about.devices, "arch": about.arch,
        "are_peers": bool(about.are_peers), "memory_bytes": about.memory_bytes,
        "driver_version": about.driver_version, "driver": target.driver,
    }  # fmt: skip
    smi = shutil.which("nvidia-smi")
    if smi and device == "cuda":
        query = "name,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu,driver_version"
        done = subprocess.run(
            [smi, f"--query-gpu={query}", "--format=csv"], capture_output=True, text=True, check=False
        )
        found["nvidia_smi"] = done.stdout.splitlines()
    return found


def row_of(found: dict[str, Any]) -> DeviceRow | None:
    """The row of roofline.py for this device's name, if we have one."""
    name = found["name"].replace("NVIDIA ", "")
    if "A100" in name:
        return DEVICES["A100-80" if found["memory_bytes"] > 60e9 else "A100-40"]
    return next((row for key, row in DEVICES.items() if name.startswith(key)), None)


class Worker:
    """One engine loaded in a process of its own."""

    def __init__(self, engine: str, folder: Path, dtype: str, degree: int, device: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), engine, str(folder), dtype, str(degree), device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.load_s = float(self._reply()["load_s"])

    def run(self, batch: list[list[int]], new: int) -> dict[str, Any]:
        """Seconds and ids of one batch. Raises RuntimeError with the engine's last words."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"batch": batch, "new": new}) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                reply: dict[str, Any] = json.loads(line)
                return reply
        words = self._process.stderr.read().strip().splitlines()
        self._process.wait()
        raise RuntimeError(words[-1] if words else f"ended with status {self._process.returncode}")

    def close(self) -> None:
        self._process.communicate(timeout=60)


def prompts(batch: int, source: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(3, 400) for _ in range(source - 1)] + [1] for _ in range(batch)]


def plan(config: T5Config, found: dict[str, Any]) -> tuple[str, int, str]:
    """(dtype, tensor-parallel degree, why) of what comes nearest to the published configuration on this machine."""
    degree = next(d for d in (PUBLISHED_GPUS, 2, 1) if d <= found["devices"] and config.heads % d == 0)
    gpus = "one GPU" if degree == 1 else f"{degree} GPUs, {_meeting(found)}"
    for dtype in WIDEST_FIRST:
        work = Work(
            batch=BATCH, source=SOURCE, position=NEW, tensor_parallel_degree=degree, cache_bytes=activation_bytes(dtype)
        )  # fmt: skip
        need = memory(config, dtype, work, has_cublaslt=bool(cuda.cublaslt_choice(found["device"]).library))
        if need.total_bytes > found["memory_bytes"]:
            continue
        is_published = (dtype, degree) == ("fp32", PUBLISHED_GPUS)
        versus = "as published" if is_published else f"not the fp32 on {PUBLISHED_GPUS} GPUs that was published"
        return dtype, degree, f"{dtype} on {gpus} ({need.total_bytes / 1e9:.1f} GB needed of each): {versus}"
    return "int4", degree, f"int4 on {gpus}, although by our arithmetic it does not fit"


def _meeting(found: dict[str, Any]) -> str:
    return "peer access" if found["are_peers"] else "no peer access"


def model_folder(model: str, dtype: str, degree: int, work: Path, engine: str) -> Path:
    """Random weights of this shape; ours are partitioned once, so that loading is mapping."""
    folder = shapes.write(model, work / model, dtype="BF16")
    if engine != "t5":
        return folder
    packed = work / f"{model}-{dtype}-tp{degree}"
    if not is_partition(packed):
        partition(folder, dtype, degree, packed)
    return packed


def engine_rows(
    model: str, dtype: str, degree: int, options: argparse.Namespace, row: DeviceRow | None
) -> list[dict[str, Any]]:
    """Every engine at one configuration: samples of the whole request and of its first token, or why there are none."""
    results = []
    config = parse_config(shapes.config(model), {}, model)
    for engine in options.engines:
        result: dict[str, Any] = {"model": model, "engine": engine, "dtype": dtype, "degree": degree, "batch": BATCH}
        result["new"] = options.new
        results.append(result)
        reason = gpu_worker.missing(engine, options.device)
        if reason:
            result["absent"] = reason
            continue
        try:
            worker = Worker(
                engine, model_folder(model, dtype, degree, options.work, engine), dtype, degree, options.device
            )
            batch = prompts(BATCH, options.source)
            ids = worker.run(batch, options.new)["ids"]
            result["load_s"] = worker.load_s
            result["ids_head"] = [each[:8] for each in ids]
            result["samples_s"] = [worker.run(batch, options.new)["wall_s"] for _ in range(options.repetitions)]
            result["first_token_s"] = [worker.run(batch, 1)["wall_s"] for _ in range(options.repetitions)]
            worker.close()
        except (RuntimeError, OSError) as error:
            result["absent"] = str(error)
        if row and engine == "t5":
            work = Work(
                batch=BATCH, source=SOURCE, position=NEW // 2, tensor_parallel_degree=degree,
                cache_bytes=activation_bytes(dtype),
            )  # fmt: skip
            result["predicted_s"] = predict(config, dtype, row, work).request_s(NEW)
    return results


def kernel_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every kernel alone, on the first device."""
    from tests.kernels.cuda.gpu import Gpu
    from tests.kernels.cuda.sim import Sim

    gpu = Sim(Path(cuda.target(options.device).driver)) if options.device == "cuda-sim" else Gpu()
    config = parse_config(shapes.config(options.model), {}, options.model)
    return list(gpu_kernels.every(gpu, config, DTYPES, BATCH, is_tiny=options.tiny))


def table(run: dict[str, Any]) -> str:
    """The report. On the emulator times are left out: it would be read as speed."""
    is_gpu = run["device"] != "cuda-sim"
    row = row_of(run["facts"])
    lines = [f"# {run['facts']['name']}, {run['facts']['devices']} device(s)", ""]
    lines += [] if is_gpu else [f"Run {EMULATOR}.", ""]
    lines += ["| kernel | MB | GB/s | of peak | TFLOP/s | of peak |", "|" + " --- |" * 6]
    for each in run["kernels"]:
        second = statistics.median(each["samples_s"])
        rate, flops = each["bytes"] / second, each["flops"] / second
        cells = ["-"] * 4
        if is_gpu:
            of_read = f"{rate / row.read_bps:.0%}" if row else "-"
            of_peak = f"{flops / row.flops[each['kind']]:.0%}" if row else "-"
            cells = [f"{rate / 1e9:.0f}", of_read, f"{flops / 1e12:.2f}", of_peak]
        lines.append(f"| {each['op']} | {each['bytes'] / 1e6:.2f} | {' | '.join(cells)} |")
    lines += ["", f"{run['published']}; batch {BATCH}, {SOURCE} source tokens, {NEW} new tokens.", ""]
    lines += [
        "| model | engine | dtype | tp | request ms, median (min to max) | tokens/s | first token ms | predicted ms |"
    ]
    lines += ["|" + " --- |" * 8]
    lines += [_engine_line(each, is_gpu) for each in run["engines"]]
    return "\n".join(lines) + "\n"


def _engine_line(each: dict[str, Any], is_gpu: bool) -> str:
    head = f"| {each['model']} | {each['engine']} | {each['dtype']} | {each['degree']} |"
    if "absent" in each:
        return f"{head} {each['absent']} | | | |"
    if not is_gpu:
        return f"{head} ran {EMULATOR.split(':')[0] if each['engine'] == 't5' else 'on the CPU'} | | | |"
    samples, first = each["samples_s"], statistics.median(each["first_token_s"])
    middle = statistics.median(samples)
    predicted = f"{each['predicted_s'] * 1e3:.1f}" if "predicted_s" in each else "-"
    spread = f"{middle * 1e3:.1f} ({min(samples) * 1e3:.1f} to {max(samples) * 1e3:.1f})"
    return f"{head} {spread} | {BATCH * each['new'] / middle:.0f} | {first * 1e3:.1f} | {predicted} |"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=cuda.DEVICES, default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny shape and single launches, to see that all of it runs"
    )
    parser.add_argument(
        "--model", choices=sorted(shapes.SHAPES), default="flan-t5-xxl", help="of the published configuration"
    )
    parser.add_argument("--engines", nargs="+", choices=gpu_worker.ENGINES, default=list(gpu_worker.ENGINES))
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build/bench-models", help="where model folders are written"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results/local/bench-gpu")
    options = parser.parse_args(argv)
    options.new, options.source = (TINY_NEW, TINY_SOURCE) if options.tiny else (NEW, SOURCE)
    if options.tiny:
        shapes.SHAPES.update([TINY])
        shapes.VOCAB = TINY_VOCAB
        options.model, options.repetitions = TINY[0], 1
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    found = facts(options.device)
    row = row_of(found)
    config = parse_config(shapes.config(options.model), {}, options.model)
    dtype, degree, why = plan(config, found)
    run: dict[str, Any] = {"device": options.device, "facts": found, "published": f"{options.model}: {why}"}
    run |= {"new": options.new, "source": options.source}
    print(f"{found['name']}: kernels of {options.model}", file=sys.stderr)
    run["kernels"] = kernel_rows(options)
    configurations = [(options.model, dtype, degree)]
    if not options.tiny:
        configurations += [(m, d, 1) for m in ("flan-t5-small", "flan-t5-base", "flan-t5-xl") for d in DTYPES]
    run["engines"] = []
    for model, d, n in configurations:
        print(f"{model} {d} tp {n}", file=sys.stderr)
        run["engines"] += engine_rows(model, d, n, options, row)
    if options.tiny:
        options.engines = ["t5"]  # the rivals' dtypes are not ours to try here
        for d in DTYPES[1:]:
            run["engines"] += engine_rows(options.model, d, 1, options, row)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "run.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
    (options.out / "table.md").write_text(table(run), encoding="utf-8")
    print(table(run))
    print(options.out / "table.md", file=sys.stderr)


if __name__ == "__main__":
    main()
