"""What bench_engines measured as rows and as Markdown: each engine, and ours beside the best rival of a precision."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def summary(
    samples: Sequence[dict[str, Any]], streamed: dict[str, int], read_bps: dict[int, float], new_tokens: int
) -> list[dict[str, Any]]:
    """One row per (threads, batch, variant): median tokens/s, ratio to the best rival of its precision, roofline."""
    cells: dict[tuple[int, int, str], dict[str, Any]] = {}
    for threads, batch, name in dict.fromkeys((s["threads"], s["batch"], s["variant"]) for s in samples):
        mine = [s for s in samples if (s["threads"], s["batch"], s["variant"]) == (threads, batch, name)]
        walls = {new: [s["wall_s"] for s in mine if s["new"] == new] for new in (1, new_tokens)}
        if not all(walls.values()):
            continue  # ended before it had answered both
        whole, first = statistics.median(walls[new_tokens]), statistics.median(walls[1])
        step = (whole - first) / (new_tokens - 1)
        row = {
            "threads": threads, "batch": batch, "variant": name, "precision": mine[0]["precision"],
            "tokens_per_s": batch * new_tokens / whole, "first_token_ms": first * 1e3, "step_ms": step * 1e3,
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
            and other["precision"] in like(row["precision"])
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


def best_table(rows: Sequence[dict[str, Any]]) -> str:
    """Ours beside the best rival of each precision and batch, each at its own best number of threads, as Markdown."""
    best: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        key = row["batch"], row["variant"]
        best[key] = max(best.get(key, row), row, key=lambda r: r["tokens_per_s"])
    lines = ["| precision | batch | ours | tokens/s (threads) | best rival | tokens/s (threads) | ratio |",
             "|" + " --- |" * 7]  # fmt: skip
    for mine in sorted(best.values(), key=lambda r: (r["precision"], r["batch"], -r["tokens_per_s"])):
        if not mine["variant"].startswith("t5 "):
            continue
        rivals = [
            other for other in best.values()
            if other["batch"] == mine["batch"] and not other["variant"].startswith("t5 ")
            and other["precision"] in like(mine["precision"])
        ]  # fmt: skip
        shown = f"| {mine['precision']} | {mine['batch']} | {mine['variant']} | {at(mine)} | "
        if rivals:
            rival = max(rivals, key=lambda r: r["tokens_per_s"])
            ratio = mine["tokens_per_s"] / rival["tokens_per_s"]
            lines.append(shown + f"{rival['variant']} | {at(rival)} | {ratio:.2f}x |")
        else:
            lines.append(shown + "none ran | | |")
    return "\n".join(lines) + "\n"


def at(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_s']:.0f} ({row['threads']})"


def like(precision: str) -> tuple[str, ...]:
    """The precisions of rivals that one of ours is compared with."""
    return ("int8", "int4") if precision == "int4" else (precision,)


def write(out: Path, run: dict[str, Any]) -> None:
    """Everything so far as run.json and table.md, each replaced whole."""
    cpu = run["machine"]
    source, new = run["tokens"]
    text = (
        f"# Engines side by side\n\n{cpu['cores']} cores of an {cpu['cpu']} ({cpu['isa']}), {source} tokens in, {new} "
        f"out, median of up to {run['repetitions']}. int4 is compared with the best rival's int8 or int4. Roofline: of "
        "the read bandwidth measured in every repetition (median), for the weights of a step; caches are not counted, "
        "and what fits the CPU's own caches may come faster. Load: from the Hugging Face folder or the rival's own.\n\n"
    )
    for model in run["models"]:
        text += table(model) + "\n"
        text += f"Each at its best number of threads:\n\n{best_table(model['rows'])}\n"
        text += "".join(f"- {name} did not run: {reason}\n" for name, reason in model["absent"].items())
    text += big_table(run["big"]) if run["big"] else ""
    put(out, run, text)


def put(out: Path, run: dict[str, Any], text: str) -> None:
    """run.json and table.md, each replaced whole, so that whoever stops the run keeps them."""
    for name, content in (("run.json", json.dumps(run, indent=1) + "\n"), ("table.md", text)):
        partial = out / f".{name}"
        partial.write_text(content, encoding="utf-8")
        partial.replace(out / name)
    print(f"wrote {out}", file=sys.stderr)
