"""Long inputs and answers on flan-t5-base: ours beside rivals, a row for each cell, also where memory ran out.

    make bench-lengths
    make bench-lengths BENCH='--engines t5 onnxruntime openvino --repetitions 3'
    make bench-lengths BENCH='--cells 2048/64x1 512/64x16 --dtypes fp32 int8 --repetitions 1'   # the shortest

Cells (tokens in / out x rows): 512/64x16, 2048/64x1 and x8, 64/256x32. One engine is loaded at a time, so that its peak
memory is its own; repetitions are interleaved by launching each again. First the memory of ours by length: the peak of
one row of 512, 1024, 2048 and 4096 tokens, and what a token adds, which does not grow where memory is linear. Writes
run.json and table.md after every launch, so that a stopped run keeps what it has. What rivals convert before they load
is kept: `bench_engines --prepare --models flan-t5-base` only makes it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.engines import machine, shapes
from tests.bench.engines.bench_engines import ROOT, VARIANTS, Variant, Worker, inputs, missing
from tests.bench.engines.engines_table import put

CELLS = ((512, 64, 16), (2048, 64, 1), (2048, 64, 8), (64, 256, 32))
"""(tokens in, tokens out, rows)"""
LENGTHS = (512, 1024, 2048, 4096)
DEFAULT = ("t5", "onnxruntime", "ctranslate2")
MODEL = "flan-t5-base"


def once(variant: Variant, folder: Path, threads: int, cell: Sequence[int]) -> dict[str, Any]:
    """Seconds of the first token and of all, and peak memory, of one launch; or why there are none."""
    source, new, rows = cell
    try:
        worker = Worker(variant, threads, folder, rows)
    except (RuntimeError, OSError) as error:
        return {"failed": f"did not load: {error}"}
    batch = inputs(rows, 2, source)
    try:
        worker.run(inputs(1, 1, 64), 2)
        first, whole = worker.run(batch, 1), worker.run(batch, new)
    except RuntimeError as error:  # killed by the kernel for its memory, or the library gave up
        return {"failed": str(error)}
    else:
        worker.close()
        return {
            "first_s": first["wall_s"], "whole_s": whole["wall_s"], "peak_bytes": whole["peak_bytes"],
            "other_cores": whole["other_cores"],
        }  # fmt: skip


Cell = tuple[int, int, int]
Keep = Callable[[list[dict[str, Any]]], None]


def measure(
    variants: Sequence[Variant], folder: Path, threads: int, repetitions: int, cells: Sequence[Cell], keep: Keep
) -> None:
    """One row per cell and variant, medians of the launches that were answered; kept after every launch."""
    samples: dict[tuple[Cell, str], list[dict[str, Any]]] = {}
    for repetition in range(repetitions):
        for cell in cells:
            for variant in variants if repetition % 2 == 0 else tuple(reversed(variants)):
                mine = samples.setdefault((cell, variant.name), [])
                if variant.rows < cell[2] or any("failed" in each for each in mine):
                    continue
                mine.append(once(variant, folder, threads, cell))
                print(cell, variant.name, mine[-1], file=sys.stderr)
                keep([row_of(at, name, found) for (at, name), found in samples.items() if found])


def row_of(cell: Sequence[int], name: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians, or the first failure."""
    row: dict[str, Any] = {"in": cell[0], "out": cell[1], "rows": cell[2], "variant": name, "samples": list(found)}
    failed = next((each["failed"] for each in found if "failed" in each), "")
    if failed:
        return row | {"failed": failed}
    medians = {key: statistics.median(each[key] for each in found) for key in found[0]}
    return row | medians | {"tokens_per_s": cell[1] * cell[2] / medians["whole_s"]}


def memory_by_length(folder: Path, threads: int, dtypes: Sequence[str], keep: Keep) -> None:
    """Peak memory of ours with one row of each length, each in a process by itself, and bytes by added token."""
    rows: list[dict[str, Any]] = []
    for dtype in dtypes:
        before: dict[str, Any] = {}
        for length in LENGTHS:
            found = once(Variant("t5", dtype, dtype), folder, threads, (length, 2, 1))
            row = {"dtype": dtype, "tokens": length, **found}
            if before and "peak_bytes" in row and "peak_bytes" in before:
                row["bytes_per_token"] = (row["peak_bytes"] - before["peak_bytes"]) / (length - before["tokens"])
            rows.append(row)
            before = row
            keep(rows)


def cell_of(text: str) -> Cell:
    """`512/64x16`: tokens in, tokens out, rows."""
    source, _, rest = text.partition("/")
    new, _, rows = rest.partition("x")
    try:
        return int(source), int(new), int(rows)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected IN/OUTxROWS, as in 512/64x16, got {text!r}") from None


def table(run: dict[str, Any]) -> str:
    """Everything as Markdown."""
    cpu = run["machine"]
    lines = [
        "# Long inputs and answers", "", f"{cpu['cores']} cores of an {cpu['cpu']} ({cpu['isa']}), {run['threads']} "
        f"threads, {MODEL}, medians of up to {run['repetitions']} launches.", "",
        "| in / out, rows | engine | tokens/s | first token, s | peak MB | other load, cores | n |", "|" + " --- |" * 7,
    ]  # fmt: skip
    for row in sorted(run["rows"], key=lambda r: (r["in"], r["out"], r["rows"], "failed" in r)):
        shown = f"| {row['in']} / {row['out']}, {row['rows']} | {row['variant']} | "
        if "failed" in row:
            lines.append(shown + f"{row['failed']} | | | | |")
        else:
            lines.append(
                shown + f"{row['tokens_per_s']:.0f} | {row['first_s']:.2f} | {row['peak_bytes'] / 1e6:.0f} | "
                f"{row['other_cores']:.2f} | {len(row['samples'])} |"
            )
    lines += ["", "| ours, one row | tokens | peak MB | KB by added token |", "|" + " --- |" * 4]
    for row in run["memory"]:
        peak = f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else row["failed"]
        grown = f"{row['bytes_per_token'] / 1e3:.1f}" if "bytes_per_token" in row else ""
        lines.append(f"| {row['dtype']} | {row['tokens']} | {peak} | {grown} |")
    return "\n".join([*lines, "", *(f"- {name} did not run: {why}" for name, why in run["absent"].items())]) + "\n"


def main() -> None:
    """See the module's docstring; --help lists the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", nargs="*", default=list(DEFAULT))
    parser.add_argument("--dtypes", nargs="*", help="only these (of our own and the rivals')")
    parser.add_argument("--cells", nargs="+", type=cell_of, default=CELLS, metavar="IN/OUTxROWS")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-models")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "local" / "bench-lengths")
    args = parser.parse_args()
    chosen = [
        v for v in VARIANTS
        if v.engine in args.engines and not dict(v.options).get("compile")
        and (not args.dtypes or v.dtype in args.dtypes)
    ]  # fmt: skip
    absent = {v.name: why for v in chosen if (why := missing(v))}
    folder = shapes.write(MODEL, args.work / MODEL)
    out = args.out / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    out.mkdir(parents=True)
    run: dict[str, Any] = {"machine": machine.facts(), "threads": args.threads, "repetitions": args.repetitions,
                           "absent": absent, "memory": [], "rows": []}  # fmt: skip

    def keep(part: str, rows: list[dict[str, Any]]) -> None:
        run[part] = rows
        put(out, run, table(run))

    if "t5" in args.engines:
        memory_by_length(folder, args.threads, ("fp32", "int8"), lambda rows: keep("memory", rows))
    there = [v for v in chosen if v.name not in absent]
    measure(there, folder, args.threads, args.repetitions, args.cells, lambda rows: keep("rows", rows))
    print((out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
