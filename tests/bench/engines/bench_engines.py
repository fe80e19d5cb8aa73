"""The bundled engine side by side with its rivals: same ids first, then interleaved medians. `make bench-engines`.

    python -m tests.bench.engines.bench_engines --models flan-t5-small flan-t5-base --out results/local/bench-engines
    python -m tests.bench.engines.bench_engines --prepare       # first, where a quiet machine is only lent
    python -m tests.bench.engines.bench_engines --big flan-t5-xl:int8 flan-t5-xxl:int4

Every engine runs in a process of its own through its Backend (the adapter that the harness tunes). What is compared
with each other is loaded together (fp32; then everything smaller), one running at a time, in random order within each
repetition. Writes run.json (every sample, with the other load on the machine during it) and table.md after every
repetition, so that a stopped run keeps what it has. Engines that are not installed, that memory has no room for, or
that end while they are asked are listed with the reason, never dropped silently. Rivals load forms that they make once
and keep (ONNX Runtime's graphs of base take a minute, several on a busy machine): --prepare only makes those. The
compiled transformers step takes minutes to compile per model and thread count (its layers are unrolled into one
graph): it takes part with --compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from engines.api import Availability, Capabilities
from engines.environments.describe import describe
from engines.environments.locate import interpreter
from engines.errors import Unavailable
from engines.launching import load_engine
from engines.registry import engine_names
from tests.bench.engines import llama_t5, machine, shapes
from tests.bench.engines.engines_table import summary, write

ROOT = Path(__file__).resolve().parents[3]

SOURCE_TOKENS, NEW_TOKENS = 64, 64
PRECISIONS = ("fp32", "bf16", "int8", "int4")
GROUPS = (("fp32",), ("bf16", "int8", "int4"))
"""Precisions that are loaded together: int4 is compared with the rivals' int8 too."""
PEAK_OF_CHECKPOINT = {"openvino": 3.0, "transformers": 1.6}
"""Peak memory over the fp32 checkpoint's size, flan-t5-base in results/published/bench-engines; 1.3 for the others."""
BATCHES = (1, 4, 8)
THREADS = (1, 2)


@dataclass(frozen=True, slots=True)
class Variant:
    """One engine at one setting; `precision` is the group in which ratios are taken."""

    engine: str
    dtype: str
    precision: str
    options: tuple[tuple[str, Any], ...] = ()
    python: str = ""
    """"auto": runs in the engine's own environment."""
    rows: int = 1 << 10
    """Of one batch at most: larger ones are not measured."""

    @property
    def name(self) -> str:
        return " ".join([self.engine, self.dtype, *(f"{k}={v}" for k, v in self.options)])


VARIANTS = (
    Variant("t5", "fp32", "fp32"),
    Variant("t5", "fp32", "fp32", (("exact_head", True),)),
    Variant("t5", "bf16", "bf16"),
    Variant("t5", "int8", "int8"),
    Variant("t5", "w8a8", "int8"),
    Variant("t5", "int4", "int4"),
    Variant("transformers", "fp32", "fp32"),
    Variant("transformers", "fp32", "fp32", (("cache", "static"),)),
    Variant("transformers", "fp32", "fp32", (("compile", True),)),
    Variant("ctranslate2", "fp32", "fp32"),
    Variant("ctranslate2", "int8", "int8"),
    Variant("onnxruntime", "fp32", "fp32"),
    Variant("onnxruntime", "int8", "int8"),
    Variant("onnxruntime", "int4", "int4"),
    Variant("openvino", "fp32", "fp32"),
    Variant("openvino", "fp32", "fp32", (("stateful", True),)),
    Variant("transformers", "bf16", "bf16"),
    Variant("ctranslate2", "bf16", "bf16"),
    Variant("openvino", "bf16", "bf16", (("stateful", True),)),
    Variant("openvino", "int8", "int8", (("stateful", True),), "auto"),
    *(Variant(llama_t5.NAME, dtype, dtype, rows=1) for dtype in llama_t5.FORMS),
)


class Worker:
    """A variant loaded in its own process."""

    def __init__(self, variant: Variant, threads: int, folder: Path, most: int = 8) -> None:
        """Loads; `most` rows come in one batch."""
        self.variant, self.threads = variant, threads
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        python = str(interpreter(variant.python, variant.engine)) if variant.python else sys.executable
        arguments = [
            variant.engine,
            variant.dtype,
            str(threads),
            str(folder),
            json.dumps(dict(variant.options)),
            str(most),
        ]
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - until close
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("worker.py")), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True, env=env,
        )  # fmt: skip
        began = time.monotonic()
        self.loaded = self._reply()
        print(f"  {variant.name}: loaded in {time.monotonic() - began:.1f} s", file=sys.stderr)

    def run(self, batch: Sequence[Sequence[int]], new: int) -> dict[str, Any]:
        """One batch; wall_s, cpu_s, peak_bytes, ids, and the cores other processes kept busy meanwhile."""
        assert self._process.stdin is not None
        before = machine.busy_s()
        try:
            self._process.stdin.write(json.dumps({"batch": batch, "new": new}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why follows from the reply that does not come
        reply = self._reply()
        reply["other_cores"] = max(0.0, machine.busy_s() - before - reply["cpu_s"]) / max(reply["wall_s"], 1e-9)
        return reply

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                reply: dict[str, Any] = json.loads(line)
                return reply
        status = self._process.wait()
        self._words.seek(0)
        words = self._words.read().strip().splitlines()
        raise RuntimeError(f"{self.variant.name} ended with status {status}" + (f": {words[-1]}" if words else ""))

    def close(self) -> None:
        """Lets it end, or ends it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=60)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._words.close()


@contextmanager
def workers(folder: Path, variants: Sequence[Variant], threads: int, absent: dict[str, str]) -> Iterator[list[Worker]]:
    """Every variant that can run, loaded; why the others cannot goes into `absent`."""
    with ExitStack() as stack:
        ready = []
        for variant in variants:
            reason = missing(variant) or no_room(variant, folder)
            if not reason:
                try:
                    ready.append(Worker(variant, threads, folder))
                    stack.callback(ready[-1].close)
                except (RuntimeError, OSError) as error:
                    reason = str(error)
            if reason:
                absent[variant.name] = reason
                print(f"  {variant.name}: {reason}", file=sys.stderr)
        yield ready


def missing(variant: Variant) -> str:
    """Why a variant cannot run here, or ''."""
    if variant.engine == llama_t5.NAME:
        return llama_t5.missing()
    if variant.engine not in engine_names():
        return "no adapter of this name is registered"
    try:
        availability, capabilities = asked(variant)
    except Unavailable as error:
        return str(error)
    if capabilities is None:
        return availability.reason
    if variant.dtype not in capabilities.effective_dtypes:
        return capabilities.reasons.get(variant.dtype, f"no {variant.dtype}")
    unknown = [name for name, _ in variant.options if name not in capabilities.options]
    return f"no option {unknown[0]}" if unknown else ""


def asked(variant: Variant) -> tuple[Availability, Capabilities | None]:
    """What the engine can do, in this interpreter or in its own. Raises Unavailable where it has none."""
    if variant.python:
        return describe(variant.engine, interpreter(variant.python, variant.engine))
    engine = load_engine(variant.engine)
    availability = engine.probe()
    return availability, engine.capabilities() if availability.is_available else None


def no_room(variant: Variant, folder: Path) -> str:
    """Why memory, with what is loaded so far, does not hold a variant of this checkpoint, or ''."""
    checkpoint = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    need = checkpoint * PEAK_OF_CHECKPOINT.get(variant.engine, 1.3)
    free = psutil.virtual_memory().available
    if need <= free:
        return ""
    return f"needs about {need / 1e9:.1f} GB beside the engines loaded before it, {free / 1e9:.1f} are available"


def inputs(count: int, seed: int, length: int = SOURCE_TOKENS) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 32000) for _ in range(length - 1)] + [1] for _ in range(count)]


def same_ids(ready: Sequence[Worker]) -> dict[str, bool]:
    """Whether each fp32 variant gives the ids of the first fp32 variant, batch of eight."""
    exact = [worker for worker in ready if worker.variant.precision == "fp32"]
    ids = {worker.variant.name: worker.run(inputs(8, 1), NEW_TOKENS)["ids"] for worker in exact}
    first = next(iter(ids.values()), None)
    return {name: rows == first for name, rows in ids.items()}


def repetition_of(ready: list[Worker], batches: Sequence[int], rng: random.Random, absent: dict[str, str]) -> list[Any]:
    """One sample per engine, batch and number of new tokens, in random order. An engine that ends leaves `ready`."""
    samples = []
    jobs = [(worker, batch, new) for worker in ready for batch in batches for new in (1, NEW_TOKENS)
            if batch <= worker.variant.rows]  # fmt: skip
    rng.shuffle(jobs)
    for worker, batch, new in jobs:
        variant = worker.variant
        if worker not in ready:
            continue
        try:
            result = worker.run(inputs(batch, 2), new)
        except RuntimeError as error:
            absent[variant.name] = f"{error} (batch {batch}, {new} new tokens)"
            ready.remove(worker)
            continue
        del result["ids"]
        samples.append(
            {"variant": variant.name, "precision": variant.precision, "threads": worker.threads, "batch": batch,
             "new": new, **result}
        )  # fmt: skip
    return samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure of each model."""

    variants: Sequence[Variant]
    threads: Sequence[int]
    batches: Sequence[int]
    repetitions: int


def bench_model(model: str, folder: Path, plan: Plan, keep: Callable[[dict[str, Any]], None]) -> None:
    """Everything about one model shape; what there is so far is kept after every repetition."""
    streamed = {
        v.name: machine.streamed_bytes(folder, v.dtype, bool(dict(v.options).get("exact_head"))) for v in plan.variants
        if v.engine == "t5"
    }  # fmt: skip
    read: dict[int, list[float]] = {threads: [] for threads in plan.threads}
    found: dict[str, Any] = {
        "model": model, "absent": {}, "same_ids_fp32": {}, "load": {}, "streamed_bytes_per_step": streamed,
        "samples": [],
    }  # fmt: skip
    for threads in plan.threads:
        for group in GROUPS:
            together = [variant for variant in plan.variants if variant.precision in group]
            if not together:
                continue
            print(f"{model}, {threads} threads, {', '.join(group)}", file=sys.stderr)
            rng = random.Random(0)
            with workers(folder, together, threads, found["absent"]) as ready:
                found["same_ids_fp32"] |= same_ids(ready)
                found["load"] |= {f"{w.variant.name}, {threads} threads": w.loaded for w in ready}
                repetition_of(ready, plan.batches, rng, found["absent"])  # warms up
                for repetition in range(plan.repetitions):
                    read[threads].append(machine.read_bytes_per_s(threads))
                    samples = repetition_of(ready, plan.batches, rng, found["absent"])
                    found["samples"] += [{"repetition": repetition, **sample} for sample in samples]
                    read_bps = {each: statistics.median(seen) for each, seen in read.items() if seen}
                    rows = summary(found["samples"], streamed, read_bps, NEW_TOKENS)
                    keep(found | {"read_bytes_per_s": read_bps, "rows": rows})


def prepare(variants: Sequence[Variant], folder: Path) -> None:
    """Loads each engine once, so that whatever it converts first is kept."""
    for variant in variants:
        reason = missing(variant)
        try:
            if not reason:
                Worker(variant, max(THREADS), folder).close()
        except (RuntimeError, OSError) as error:
            reason = str(error)
        if reason:
            print(f"  {variant.name}: {reason}", file=sys.stderr)


def chosen(arguments: argparse.Namespace) -> list[Variant]:
    """The variants that the options leave."""
    return [
        v for v in VARIANTS
        if (not arguments.engines or v.engine in arguments.engines) and v.precision in arguments.precisions
        and (arguments.compiled or not dict(v.options).get("compile"))
    ]  # fmt: skip


def main() -> None:
    """See the module's docstring; --help lists the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["flan-t5-small", "flan-t5-base", "flan-t5-large"])
    parser.add_argument(
        "--big", nargs="*", default=[], metavar="MODEL:DTYPE", help="partition, map and run large shapes"
    )
    parser.add_argument("--engines", nargs="*", help="only these engines")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "bench-models", help="where model folders are kept"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "local" / "bench-engines")
    parser.add_argument(
        "--compiled", action="store_true", help="with torch.compile: minutes per model and thread count"
    )
    parser.add_argument("--prepare", action="store_true", help="only make what engines convert before they load")
    arguments = parser.parse_args()
    variants = chosen(arguments)
    folders = {model: arguments.work / model for model in arguments.models}
    if arguments.prepare:
        for model, folder in folders.items():
            print(model, file=sys.stderr)
            prepare(variants, shapes.write(model, folder))
        return
    plan = Plan(
        variants=variants, threads=arguments.threads, batches=arguments.batches, repetitions=arguments.repetitions
    )
    out = arguments.out / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    out.mkdir(parents=True)
    run: dict[str, Any] = {
        "machine": machine.facts(), "python": platform.python_version(), "tokens": [SOURCE_TOKENS, NEW_TOKENS],
        "repetitions": arguments.repetitions, "models": [], "big": [],
    }  # fmt: skip
    for model, folder in folders.items():
        shapes.write(model, folder)
        done = list(run["models"])

        def keep(found: dict[str, Any], done: list[Any] = done) -> None:
            run["models"] = [*done, found]
            write(out, run)

        bench_model(model, folder, plan, keep)
    for job in arguments.big:
        model, _, dtype = job.partition(":")
        run["big"].append(machine.run_big(model, dtype or "int8", arguments.work))
        write(out, run)
    print((out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
