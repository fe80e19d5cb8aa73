"""Whether two threads are ever slower than one: tokens/s of the bundled engine by shape, batch and dtype, in turns.

    python -m tests.bench.engines.bench_threads                     # ten quiet minutes
    python -m tests.bench.engines.bench_threads --models bundled    # two
    python -m tests.bench.engines.bench_threads --models bundled flan-t5-small --dtypes int8 --repetitions 5

Both engines of a row are loaded in this process and asked in turns, ABBA; an engine that is not asked sleeps.
A row's ratio is the median over the repetitions of two threads' tokens/s by one thread's; its range is shown beside it,
and the other load on the machine while it ran. Writes run.json and table.md after every row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import engines.t5 as t5
from engines.t5.config import read_config
from tests.bench.engines import machine, shapes
from tests.bench.engines.bench_engines import ROOT, inputs
from tests.bench.engines.engines_table import put

BUNDLED = "bundled"
SHAPES = (BUNDLED, "flan-t5-small", "flan-t5-base")
BATCHES = (1, 8)
DTYPES = ("fp32", "bf16", "int8", "int4")
TOKENS_IN, TOKENS_OUT = 64, 64
THREADS = (1, 2)
LEAST_S = 0.2
"""One sample repeats its batch for at least as long: a batch of the bundled shape takes milliseconds."""


def folder_of(model: str, work: Path) -> Path:
    """The bundled model's folder, or one with random weights, written once."""
    return ROOT / "scenarios" / "assets" / "flan-t5-bench" if model == BUNDLED else shapes.write(model, work / model)


def tokens_per_s(engine: t5.T5Engine, batch: Sequence[Sequence[int]]) -> float:
    """Of as many whole batches as LEAST_S holds."""
    tokens, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < LEAST_S or not tokens:
        tokens += sum(map(len, engine.generate(batch, max_new_tokens=TOKENS_OUT, ignore_eos=True)))
    return tokens / spent


def rows_of(folder: Path, dtype: str, batches: Sequence[int], repetitions: int) -> list[dict[str, Any]]:
    """One row per batch; both engines loaded together."""
    vocabulary = read_config(folder).vocab
    rows = []
    with t5.load(folder, dtype=dtype, threads=1) as one, t5.load(folder, dtype=dtype, threads=2) as two:
        engines = dict(zip(THREADS, (one, two), strict=True))
        for size in batches:
            batch = [[2 + token % (vocabulary - 2) for token in row] for row in inputs(size, 2, TOKENS_IN)]
            samples: dict[int, list[float]] = {threads: [] for threads in THREADS}
            busy, cpu, began = machine.busy_s(), time.process_time(), time.perf_counter()
            for repetition in range(-1, repetitions):  # -1 warms up
                for threads in THREADS if repetition % 2 else tuple(reversed(THREADS)):
                    found = tokens_per_s(engines[threads], batch)
                    if repetition >= 0:
                        samples[threads].append(found)
            others = machine.busy_s() - busy - (time.process_time() - cpu)
            ratios = [both / alone for alone, both in zip(samples[1], samples[2], strict=True)]
            rows.append(
                {"dtype": dtype, "batch": size, "one": samples[1], "two": samples[2],
                 "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
                 "other_cores": max(0.0, others / (time.perf_counter() - began))}
            )  # fmt: skip
    return rows


def table(run: dict[str, Any]) -> str:
    """Everything so far as Markdown."""
    cpu = run["machine"]
    lines = [
        "# Two threads beside one", "",
        f"{cpu['cores']} cores of an {cpu['cpu']} ({cpu['isa']}), {TOKENS_IN} tokens in, {TOKENS_OUT} out, medians of "
        f"{run['repetitions']} in turns. A meeting of two threads: {cpu['probes'][2]['barrier_us']:.1f} us.", "",
        "| shape | dtype | batch | one thread, tokens/s | two | two by one | range | other load, cores |",
        "|" + " --- |" * 8,
    ]  # fmt: skip
    for row in run["rows"]:
        lines.append(
            f"| {row['model']} | {row['dtype']} | {row['batch']} | {statistics.median(row['one']):.0f} | "
            f"{statistics.median(row['two']):.0f} | {row['ratio']:.2f}x | {row['least']:.2f} to {row['most']:.2f} | "
            f"{row['other_cores']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module's docstring; --help lists the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, "w8a8"), default=DTYPES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-models")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "local" / "bench-threads")
    args = parser.parse_args()
    out = args.out / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    out.mkdir(parents=True)
    run: dict[str, Any] = {"machine": machine.facts(), "repetitions": args.repetitions, "rows": []}
    for model in args.models:
        folder = folder_of(model, args.work)
        for dtype in args.dtypes:
            found = rows_of(folder, dtype, args.batches, args.repetitions)
            run["rows"] += [{"model": model, **row} for row in found]
            print(f"{model} {dtype}: {[round(row['ratio'], 2) for row in found]}", file=sys.stderr)
            put(out, run, table(run))
    print(table(run))


if __name__ == "__main__":
    main()
