"""The bundled engine side by side with its rivals: same ids first, then interleaved medians. `make bench-engines`.

    python -m tests.bench.engines.bench_engines --models flan-t5-small flan-t5-base --out results/local/bench-engines
    python -m tests.bench.engines.bench_engines --big flan-t5-xl:int8 flan-t5-xxl:int4

Every engine runs in a process of its own through its Backend (the adapter that the harness tunes). What is compared
with each other is loaded together (fp32; then everything smaller), one running at a time, in random order within each
repetition. Writes run.json (every sample, with the other load on the machine during it) and table.md after every model,
so that an interrupted run keeps what it has. Engines that are not installed, or that memory has no room for, are listed
with the reason, never dropped silently. The compiled transformers step takes minutes to compile per model and thread
count (its layers are unrolled into one graph): it takes part with --compiled.
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
import time
from collections.abc import Iterator, Sequence
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

ROOT = Path(__file__).resolve().parents[3]

SOURCE_TOKENS, NEW_TOKENS = 64, 64
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
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("worker.py")), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
        )  # fmt: skip
        began = time.monotonic()
        self.loaded = self._reply()
        print(f"  {variant.name}: loaded in {time.monotonic() - began:.1f} s", file=sys.stderr)

    def run(self, batch: Sequence[Sequence[int]], new: int) -> dict[str, Any]:
        """One batch; wall_s, cpu_s, peak_bytes, ids, and the cores other processes kept busy meanwhile."""
        assert self._process.stdin is not None
        before = machine.busy_s()
        self._process.stdin.write(json.dumps({"batch": batch, "new": new}) + "\n")
        self._process.stdin.flush()
        reply = self._reply()
        reply["other_cores"] = max(0.0, machine.busy_s() - before - reply["cpu_s"]) / max(reply["wall_s"], 1e-9)
        return reply

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                reply: dict[str, Any] = json.loads(line)
                return reply
        raise RuntimeError(f"{self.variant.name} ended with status {self._process.wait()}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


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


def measure(
    ready: Sequence[Worker], repetitions: int, threads: int, batches: Sequence[int]
) -> tuple[list[dict[str, Any]], list[float]]:
    """All samples: (variant, batch) x repetitions, order drawn anew in each repetition; the read bandwidth of each."""
    samples: list[dict[str, Any]] = []
    read: list[float] = []
    rng = random.Random(0)
    for repetition in range(-1, repetitions):  # -1 warms up
        if repetition >= 0:
            read.append(machine.read_bytes_per_s(threads))
        jobs = [(worker, batch, new) for worker in ready for batch in batches for new in (1, NEW_TOKENS)
                if batch <= worker.variant.rows]  # fmt: skip
        rng.shuffle(jobs)
        for worker, batch, new in jobs:
            result = worker.run(inputs(batch, 2), new)
            if repetition < 0:
                continue
            del result["ids"]
            samples.append(
                {"variant": worker.variant.name, "precision": worker.variant.precision, "threads": worker.threads,
                 "batch": batch, "new": new, "repetition": repetition, **result}
            )  # fmt: skip
    return samples, read


def summary(samples: Sequence[dict[str, Any]], streamed: dict[str, int], read_bps: dict[int, float]) -> list[Any]:
    """One row per (threads, batch, variant): median tokens/s, ratio to the best rival of its precision, roofline."""
    cells: dict[tuple[int, int, str], dict[str, Any]] = {}
    for threads, batch, name in dict.fromkeys((s["threads"], s["batch"], s["variant"]) for s in samples):
        mine = [s for s in samples if (s["threads"], s["batch"], s["variant"]) == (threads, batch, name)]
        whole = statistics.median(s["wall_s"] for s in mine if s["new"] == NEW_TOKENS)
        first = statistics.median(s["wall_s"] for s in mine if s["new"] == 1)
        step = (whole - first) / (NEW_TOKENS - 1)
        row = {
            "threads": threads, "batch": batch, "variant": name, "precision": mine[0]["precision"],
            "tokens_per_s": batch * NEW_TOKENS / whole, "first_token_ms": first * 1e3, "step_ms": step * 1e3,
            "peak_mb": max(s["peak_bytes"] for s in mine) / 1e6,
            "other_cores": statistics.median(s["other_cores"] for s in mine),
        }  # fmt: skip
        if name in streamed and step > 0:
            row["roofline_frac"] = streamed[name] / read_bps[threads] / step
        cells[threads, batch, name] = row
    for (threads, batch, name), row in cells.items():
        rivals = [
            other["tokens_per_s"]
            for (t, b, n), other in cells.items()
            if (t, b) == (threads, batch) and not n.startswith("t5 ")
            and other["precision"] in (("int8", "int4") if row["precision"] == "int4" else (row["precision"],))
        ]  # fmt: skip
        if rivals and name.startswith("t5 "):
            row["ratio_to_best_rival"] = row["tokens_per_s"] / max(rivals)
    return list(cells.values())


def table(result: dict[str, Any]) -> str:
    """The rows of one model as Markdown."""
    lines = [f"### {result['model']}", "", "| threads | batch | engine | tokens/s | vs best rival | roofline | "
             "first token ms | step ms | load s | peak MB | other load, cores |", "|" + " --- |" * 11]  # fmt: skip
    for row in sorted(result["rows"], key=lambda r: (r["threads"], r["batch"], r["precision"], -r["tokens_per_s"])):
        ratio, roof = row.get("ratio_to_best_rival"), row.get("roofline_frac")
        load_s = result["load"][f"{row['variant']}, {row['threads']} threads"]["load_s"]
        lines.append(
            f"| {row['threads']} | {row['batch']} | {row['variant']} | {row['tokens_per_s']:.0f} | "
            f"{f'{ratio:.2f}x' if ratio else ''} | {f'{roof:.0%}' if roof else ''} | {row['first_token_ms']:.1f} | "
            f"{row['step_ms']:.2f} | {load_s:.2f} | {row['peak_mb']:.0f} | {row['other_cores']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def big_table(results: Sequence[dict[str, Any]]) -> str:
    """What --big measured as Markdown."""
    lines = ["### Large shapes, from a partition, batch 1, all cores", "",
             "| model | dtype | load s | first token s | tokens/s | peak GB |", "|" + " --- |" * 6]  # fmt: skip
    for each in results:
        lines.append(
            f"| {each['model']} | {each['dtype']} | {each['load_s']:.1f} | {each['first_token_s']:.2f} | "
            f"{each['tokens_per_s']:.1f} | {each['peak_bytes'] / 1e9:.1f} |"
        )
    return "\n".join(lines) + "\n"


def bench_model(
    model: str,
    folder: Path,
    repetitions: int,
    variants: Sequence[Variant],
    threads_set: Sequence[int],
    batches: Sequence[int],
) -> dict[str, Any]:
    """Everything about one model shape."""
    absent: dict[str, str] = {}
    samples: list[dict[str, Any]] = []
    agreement: dict[str, bool] = {}
    loads: dict[str, Any] = {}
    read: dict[int, list[float]] = {}
    for threads in threads_set:
        read[threads] = []
        for group in GROUPS:
            together = [variant for variant in variants if variant.precision in group]
            if not together:
                continue
            print(f"{model}, {threads} threads, {', '.join(group)}", file=sys.stderr)
            with workers(folder, together, threads, absent) as ready:
                agreement |= same_ids(ready)
                loads |= {f"{w.variant.name}, {threads} threads": w.loaded for w in ready}
                measured, read_bps_now = measure(ready, repetitions, threads, batches)
            samples += measured
            read[threads] += read_bps_now
    read_bps = {threads: statistics.median(found) for threads, found in read.items()}
    streamed = {
        v.name: machine.streamed_bytes(folder, v.dtype, bool(dict(v.options).get("exact_head"))) for v in variants
        if v.engine == "t5"
    }  # fmt: skip
    return {
        "model": model, "absent": absent, "same_ids_fp32": agreement, "load": loads, "read_bytes_per_s": read_bps,
        "streamed_bytes_per_step": streamed, "samples": samples, "rows": summary(samples, streamed, read_bps),
    }  # fmt: skip


def main() -> None:
    """See the module's docstring; --help lists the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["flan-t5-small", "flan-t5-base", "flan-t5-large"])
    parser.add_argument(
        "--big", nargs="*", default=[], metavar="MODEL:DTYPE", help="partition, map and run large shapes"
    )
    parser.add_argument("--engines", nargs="*", help="only these engines")
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
    arguments = parser.parse_args()
    variants = [
        v for v in VARIANTS
        if (not arguments.engines or v.engine in arguments.engines)
        and (arguments.compiled or not dict(v.options).get("compile"))
    ]  # fmt: skip
    out = arguments.out / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    out.mkdir(parents=True)
    run: dict[str, Any] = {"machine": machine.facts(), "python": platform.python_version(), "models": [], "big": []}
    for model in arguments.models:
        folder = shapes.write(model, arguments.work / model)
        run["models"].append(
            bench_model(model, folder, arguments.repetitions, variants, arguments.threads, arguments.batches)
        )
        write(out, run, arguments.repetitions)
    for job in arguments.big:
        model, _, dtype = job.partition(":")
        run["big"].append(machine.run_big(model, dtype or "int8", arguments.work))
        write(out, run, arguments.repetitions)
    print((out / "table.md").read_text(encoding="utf-8"))


def write(out: Path, run: dict[str, Any], repetitions: int) -> None:
    """Everything so far as run.json and table.md, each replaced whole."""
    cpu = run["machine"]
    text = (
        f"# Engines side by side\n\n{cpu['cores']} cores of an {cpu['cpu']} ({cpu['isa']}), {SOURCE_TOKENS} tokens in, "
        f"{NEW_TOKENS} out, median of {repetitions}. int4 is compared with the best rival's int8 or int4. Roofline: of "
        "the read bandwidth measured in every repetition (median), for the weights of a step; caches are not counted, "
        "and what fits the CPU's own caches may come faster. Load: from the Hugging Face folder or the rival's own.\n\n"
    )
    for model in run["models"]:
        text += table(model) + "\n"
        text += "".join(f"- {name} did not run: {reason}\n" for name, reason in model["absent"].items())
    text += big_table(run["big"]) if run["big"] else ""
    for name, content in (("run.json", json.dumps(run, indent=1) + "\n"), ("table.md", text)):
        partial = out / f".{name}"
        partial.write_text(content, encoding="utf-8")
        partial.replace(out / name)
        print(f"wrote {out / name}", file=sys.stderr)


if __name__ == "__main__":
    main()
