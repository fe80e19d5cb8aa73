"""Answers compared across what an engine declares as scheduling: token ids at one value and at another.

    python -m tests.conformance.numeric_paths [--engines t5 ctranslate2] [--prompts 200] [--all]

With --all also the axes that count as numeric, to see whether they have to.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.api import EngineSpec
from engines.launching import load_engine
from engines.setting import OptionValue
from harness.quality.inheritance import numeric_path
from harness.records import Candidate
from tests.conformance.engine_suite import EngineCase, serve

ASSETS = Path(__file__).parents[2] / "scenarios" / "assets"
NEW_TOKENS = 24

FAR: Mapping[str, OptionValue] = {
    "batch_size": 8, "workers": 2, "max_batch_delay_ms": 20, "job_queue_size": 64, "threads": 2,
}  # fmt: skip
"""Axis -> a value far from its default."""
FAR_OPTIONS: Mapping[str, OptionValue] = {
    "spinning": False, "service_ms": 2, "law": "lognormal", "sigma": 0.5, "per_item_ms": 1, "token_ms": 0.5,
    "slots": 2, "seed": 7, "ballast_mib": 8, "load_ms": 20, "slow_ms": 3, "slow_frac": 0.2,
    "stall_after_s": 2, "stall_ms": 10, "stall_every_s": 1,
}  # fmt: skip
"""Option -> a value that is not its default, for those that an engine declares as scheduling."""


def spec_of(engine: str, dtype: str, model_dir: Path) -> EngineSpec:
    """The start that everything is compared with: prompts one after the other, one thread."""
    return EngineSpec(engine=engine, model_dir=model_dir, dtype=dtype, threads=1)


def declared(spec: EngineSpec) -> tuple[dict[str, OptionValue], ...]:
    """The changes of `spec` that its engine's capabilities and the table of axes call scheduling: one at a time, then
    all of them together."""
    able = load_engine(spec.engine).capabilities()
    here = _path(spec, able.changes_answers)
    options = [name.removeprefix("options.") for name in able.changes_answers if name.startswith("options.")]
    changes = [{name: value} for name, value in FAR.items()]
    changes += [{f"options.{name}": FAR_OPTIONS[name]} for name in options]
    safe = [each for each in changes if _path(_changed(spec, each), able.changes_answers) == here]
    return (*safe, {name: value for change in safe for name, value in change.items()})


def ids(spec: EngineSpec, prompts: Sequence[str], workdir: Path) -> list[list[int]]:
    """The greedy tokens of each prompt, as many asked at a time as fill workers and batches."""
    case = EngineCase(engine=load_engine(spec.engine), spec=spec, prompts=tuple(prompts))
    with serve(case, workdir) as served, ThreadPoolExecutor(spec.workers * spec.batch_size) as pool:
        return list(pool.map(lambda prompt: served.tokens(prompt, max_new_tokens=NEW_TOKENS), prompts))


def compared(
    spec: EngineSpec, changes: Sequence[Mapping[str, OptionValue]], prompts: Sequence[str], folder: Path
) -> Iterator[tuple[Mapping[str, OptionValue], int]]:
    """Each change, and how many prompts it answers in other tokens."""
    before = ids(spec, prompts, folder)
    for change in changes:
        now = ids(_changed(spec, change), prompts, folder)
        yield change, sum(a != b for a, b in zip(before, now, strict=True))


def bundled_prompts(count: int) -> list[str]:
    """The first prompts of the bundled file."""
    lines = (ASSETS / "prompts" / "tasks.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines[:count]]


def _changed(spec: EngineSpec, change: Mapping[str, OptionValue]) -> EngineSpec:
    fields: dict[str, Any] = {name: value for name, value in change.items() if "." not in name}
    options = {name.partition(".")[2]: value for name, value in change.items() if "." in name}
    return replace(spec, **fields, options={**spec.options, **options})


def _path(spec: EngineSpec, changes_answers: Mapping[str, tuple[str, ...]]) -> dict[str, OptionValue | None]:
    return numeric_path(Candidate(block=0, engine=spec.engine, **spec.values()), changes_answers)


def main(arguments: Sequence[str]) -> int:
    """Print one line for each change; 1 where a declared one changes tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["fake", "t5", "ctranslate2", "onnxruntime", "transformers"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--all", action="store_true", help="also the axes that count as numeric")
    given = parser.parse_args(arguments)
    prompts, is_wrong = bundled_prompts(given.prompts), False
    for engine in given.engines:
        able = load_engine(engine).capabilities()
        for dtype in (each for each in given.dtypes if each in able.effective_dtypes):
            spec = spec_of(engine, dtype, ASSETS / "flan-t5-bench")
            safe = declared(spec)
            more = [{name: value} for name, value in FAR.items() if {name: value} not in safe] if given.all else []
            with tempfile.TemporaryDirectory() as folder:
                for change, differ in compared(spec, (*safe, *more), prompts, Path(folder)):
                    word = "scheduling" if change in safe else "numeric"
                    is_wrong = is_wrong or (change in safe and differ > 0)
                    print(f"{engine} {dtype} {change} ({word}): {differ} of {len(prompts)} differ", flush=True)
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
