"""The bundled engine on a GPU: bandwidth of each kernel, tokens/s, and the published configuration beside its rivals.

    make bench-gpu                                     # on a machine with a GPU
    python -m tests.bench.engines.bench_gpu --device cuda-sim --tiny   # anywhere: every line runs, times mean nothing

The published configuration is flan-t5-xxl, batch 4, 20 new tokens, fp32 over 4 GPUs. With 4 GPUs that is run, or
the widest dtype that fits; with fewer, the widest that fits 2 or 1; the table says which. Weights are random: they
decide nothing about time. run.json (every sample, clocks included) and table.md are written anew after each result,
the most telling first, and the table printed at the end. Every section runs in processes of its own: one that fails or
hangs is a line of the report. --budget-s (540) ends it all in time for a machine that is lent for ten minutes. Needs
Python with NumPy, the built library (`cmake -S kernels -B build/native -DT5K_INPLACE=ON && cmake --build build/native`)
and nvcc or NVRTC's wheel; no network.
"""

from __future__ import annotations

import argparse
import ctypes as c
import json
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.t5 import cuda, native
from engines.t5.config import T5Config, parse_config
from engines.t5.memory_model import memory, weights_bytes
from engines.t5.time_model import (
    DEVICES,
    DRIVER_NAMES,
    DeviceRow,
    Work,
    activation_bytes,
    cache_bytes,
    predict,
)
from tests.bench.engines import gpu_kernels, gpu_worker, shapes
from tests.bench.engines.children import Budget, child

ROOT = Path(__file__).resolve().parents[3]

BATCH, NEW, SOURCE = gpu_kernels.BATCH, 20, 32
PUBLISHED_GPUS = 4
TINY_NEW, TINY_SOURCE = 3, 6
WIDEST_FIRST = ("fp32", "bf16", "int8", "int4")
DTYPES = ("fp32", "bf16", "fp16", "int8", "int4")
WORKER = Path(__file__).with_name("gpu_worker.py")
WRITER = Path(__file__).with_name("gpu_folders.py")
KERNELS = Path(__file__).with_name("gpu_kernels.py")
PUBLISHED_SHARE = 0.4
"""Of the time budget, for writing the model of the published configuration: the kernels may take half of it."""
LEAST_S = 10.0
"""What a model of any size needs to be loaded and measured: assumed."""
WRITES_BPS = 300e6
"""Bytes of a model folder written a second: assumed."""
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
            ["timeout", "20", smi, f"--query-gpu={query}", "--format=csv"], capture_output=True, text=True, check=False
        )
        found["nvidia_smi"] = done.stdout.splitlines()
    return found


def row_of(found: dict[str, Any]) -> DeviceRow | None:
    """The row of the time model for this device, if we have one: no share of a peak is better than a wrong one."""
    return DEVICES[DRIVER_NAMES[found["name"]]] if found["name"] in DRIVER_NAMES else None


def prompts(batch: int, source: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(3, 400) for _ in range(source - 1)] + [1] for _ in range(batch)]


def plan(config: T5Config, found: dict[str, Any], room: Callable[[str, int], str]) -> tuple[str, int, str]:
    """(dtype, tensor-parallel degree, why) of what comes nearest to the published configuration on this machine.

    room: (dtype, degree) -> why disk or time do not hold it, or ''.
    """
    degree = next(d for d in (PUBLISHED_GPUS, 2, 1) if d <= found["devices"] and config.heads % d == 0)
    gpus = "one GPU" if degree == 1 else f"{degree} GPUs, {_meeting(found)}"
    passed: list[str] = []
    for dtype in WIDEST_FIRST:
        work = Work(
            batch=BATCH, source=SOURCE, position=NEW, tensor_parallel_degree=degree,
            cache_bytes=cache_bytes(dtype), activation_bytes=activation_bytes(dtype),
        )  # fmt: skip
        need = memory(config, dtype, work)
        if need.total_bytes > found["memory_bytes"]:
            continue
        if reason := room(dtype, degree):
            passed.append(f"{dtype} {reason}")
            continue
        is_published = (dtype, degree) == ("fp32", PUBLISHED_GPUS)
        versus = "as published" if is_published else f"not the fp32 on {PUBLISHED_GPUS} GPUs that was published"
        why = f"{dtype} on {gpus} ({need.total_bytes / 1e9:.1f} GB needed of each): {versus}"
        return dtype, degree, "; ".join([why, *passed])
    return "int4", degree, "; ".join([f"int4 on {gpus}, although by our arithmetic it does not fit", *passed])


def _meeting(found: dict[str, Any]) -> str:
    return "peer access" if found["are_peers"] else "no peer access"


def ask(replies: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The next reply. Raises RuntimeError if the worker ended instead."""
    for reply in replies:
        return reply
    raise RuntimeError("ended without an answer")


def folders(model: str, dtype: str, degree: int, engine: str) -> list[str]:
    """Names of the folders that an engine at one configuration reads: the checkpoint, and ours from a partition."""
    return [model] + ([f"{model}-{dtype}-tp{degree}"] if engine == "t5" else [])


def has_room(model: str, dtype: str, work: Path, left_s: float, names: Sequence[str]) -> str:
    """Why there is no point in writing those of `names` that are not there yet, or ''."""
    config = parse_config(shapes.config(model), {}, model)
    missing = [name for name in names if not (work / name).exists()]
    needed = sum(weights_bytes(config, "bf16" if name == model else dtype) for name in missing)
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free
    if needed > free:
        return f"needs {needed / 1e9:.0f} GB under {work}, where {free / 1e9:.0f} GB are free"
    if needed / WRITES_BPS > left_s:
        return f"skipped: {needed / 1e9:.0f} GB to write in the {left_s:.0f} s that are left"
    return ""


def engine_row(
    asked: tuple[str, str, int, str], options: argparse.Namespace, row: DeviceRow | None, budget: Budget
) -> dict[str, Any]:
    """One engine at one (model, dtype, degree): samples of the whole request and of its first token, or why not."""
    model, dtype, degree, engine = asked
    result: dict[str, Any] = {"model": model, "engine": engine, "dtype": dtype, "degree": degree, "batch": BATCH}
    result["new"] = options.new
    is_over = {"absent": f"skipped: the time budget of {options.budget_s:.0f} s is used up"}
    if budget.left_s < LEAST_S:
        return result | is_over
    names = folders(*asked)
    if reason := (
        gpu_worker.missing(engine, options.device) or has_room(model, dtype, options.work, budget.left_s, names)
    ):
        return result | {"absent": reason}
    tiny = ["tiny"] if options.tiny else []
    with child(WRITER, [str(options.work), *names, dtype, str(degree), *tiny], budget.left_s) as writer:
        folder = ask(writer.replies())["folder"]
    if budget.left_s < LEAST_S:
        return result | is_over
    batch = prompts(BATCH, options.source)
    with child(WORKER, [engine, folder, dtype, str(degree), options.device], budget.left_s) as worker:
        replies = worker.replies()

        def timed(new: int) -> dict[str, Any]:
            worker.send(batch=batch, new=new)
            return ask(replies)

        result["load_s"] = ask(replies)["load_s"]
        result["ids_head"] = [each[:8] for each in timed(options.new)["ids"]]
        result["samples_s"] = [timed(options.new)["wall_s"] for _ in range(options.repetitions)]
        result["first_token_s"] = [timed(1)["wall_s"] for _ in range(options.repetitions)]
    if row and engine == "t5":
        work = Work(
            batch=BATCH, source=SOURCE, position=NEW // 2, tensor_parallel_degree=degree,
            cache_bytes=cache_bytes(dtype), activation_bytes=activation_bytes(dtype),
        )  # fmt: skip
        config = parse_config(shapes.config(model), {}, model)
        result["predicted_s"] = predict(config, dtype, row, work).request_s(NEW)
    return result


def tidy(
    asked: tuple[str, str, int, str], later: Iterable[tuple[str, str, int, str]], options: argparse.Namespace
) -> None:
    """Removes what `asked` read, or left half-written, not what is needed later or was there before this run."""
    needed = {name for each in later for name in folders(*each)}
    for name in folders(*asked):
        if name not in needed and name not in options.kept:
            for folder in (options.work / name, options.work / f"{name}.partial"):
                shutil.rmtree(folder, ignore_errors=True)


def in_order(published: tuple[str, str, int], options: argparse.Namespace) -> list[tuple[str, str, int, str]]:
    """(model, dtype, degree, engine), the most telling first: ours at a few sizes, its rivals there, then the rest."""
    if options.tiny:
        found = [(*published, engine) for engine in options.engines]
        return found + [(options.model, dtype, 1, "t5") for dtype in DTYPES[1:]]
    telling = [(model, "bf16", 1) for model in ("flan-t5-base", "flan-t5-xl")]
    telling.append(published)
    rest = [(m, d, 1) for m in ("flan-t5-small", "flan-t5-base", "flan-t5-xl") for d in DTYPES]
    others = [engine for engine in options.engines if engine != "t5"]
    found = []
    for configurations in (telling, [each for each in rest if each not in telling]):
        found += [(*each, "t5") for each in configurations if "t5" in options.engines]
        found += [(*each, engine) for each in configurations for engine in others]
    return found


class Report:
    """run.json and table.md, written anew whenever something was learnt: a run cut short has told all it knew."""

    def __init__(self, out: Path, run: dict[str, Any]) -> None:
        self.out, self.run = out, run
        out.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self) -> None:
        for name, text in (("run.json", json.dumps(self.run, indent=1)), ("table.md", table(self.run))):
            partial = self.out / f".{name}"
            partial.write_text(text, encoding="utf-8")
            partial.rename(self.out / name)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """What fails inside becomes a line of the report; the next section is tried all the same."""
        print(name, file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:  # a section's boundary: on a machine nobody has seen, anything may be wrong
            self.run["failed"].append({"section": name, "error": f"{type(error).__name__}: {error}"})
        self.write()


def kernels(report: Report, options: argparse.Namespace, budget: Budget) -> None:
    """Every group of kernels on the first device, at most half of the budget."""
    config = parse_config(shapes.config(options.model), {}, options.model)
    names = list(gpu_kernels.groups(config, is_tiny=options.tiny))
    share_s = budget.left_s / 2 / len(names)
    for name in names:
        arguments = [options.device, options.model, name, "tiny" if options.tiny else ""]
        with report.section(f"kernels of {options.model}, {name}"), child(KERNELS, arguments, share_s) as measured:
            for each in measured.replies():
                report.run["kernels"].append(each)
                report.write()


def table(run: dict[str, Any]) -> str:
    """The report. On the emulator times are left out: it would be read as speed."""
    is_gpu = run["device"] != "cuda-sim"
    row = row_of(run["facts"])
    facts = run["facts"]
    lines = [f"# {facts['name']}, {facts['devices']} device(s)", ""]
    lines += [] if is_gpu else [f"Run {EMULATOR}.", ""]
    version = facts.get("driver_version", 0)
    message = [f"sm_{facts.get('arch', '?')}", f"{facts['memory_bytes'] / 1e9:.0f} GB"]
    message += [f"driver for CUDA {version // 1000}.{version % 1000 // 10}"] if version else []
    lines += [", ".join([*message, *facts.get("nvidia_smi", [])[1:]]) + ".", ""]
    lines += [f"Failed: {each['section']}: {each['error']}" for each in run.get("failed", [])]
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
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds for everything; 0: as many as it takes")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build/bench-models",
        help="where model folders are written, and removed after use unless they were there before",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "results/local/bench-gpu")
    options = parser.parse_args(argv)
    options.new, options.source = (TINY_NEW, TINY_SOURCE) if options.tiny else (NEW, SOURCE)
    options.kept = {each.name for each in options.work.iterdir()} if options.work.is_dir() else set()
    if options.tiny:
        shapes.make_tiny()
        options.model, options.repetitions = shapes.TINY, 1
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    budget = Budget(options.budget_s)
    found = facts(options.device)
    row = row_of(found)
    config = parse_config(shapes.config(options.model), {}, options.model)

    def room(dtype: str, degree: int) -> str:
        names = folders(options.model, dtype, degree, "t5")
        return has_room(options.model, dtype, options.work, budget.left_s * PUBLISHED_SHARE, names)

    dtype, degree, why = plan(config, found, room)
    report = Report(
        options.out,
        {"device": options.device, "facts": found, "published": f"{options.model}: {why}", "new": options.new,
         "source": options.source, "budget_s": options.budget_s, "kernels": [], "engines": [], "failed": []},
    )  # fmt: skip
    print(f"{found['name']}: {report.out / 'table.md'} grows as results come", file=sys.stderr)
    kernels(report, options, budget)
    plans = in_order((options.model, dtype, degree), options)
    for at, asked in enumerate(plans):
        model, d, n, engine = asked
        name = f"{model} {d} tp {n} {engine}"
        with report.section(name):
            try:
                result = engine_row(asked, options, row, budget)
            except (RuntimeError, OSError) as error:
                result = {"model": model, "engine": engine, "dtype": d, "degree": n, "absent": str(error)}
            report.run["engines"].append(result)
        tidy(asked, plans[at + 1 :], options)
    print(table(report.run))
    print(report.out / "table.md", file=sys.stderr)


if __name__ == "__main__":
    main()
