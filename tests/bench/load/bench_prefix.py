"""What a real server's prefix cache does to the time to the first token: make bench-prefix.

Inputs of `--input` tokens that begin with the same `--shared` (cut from the bundled corpus), on the smollm2-135m
shape. Each engine is launched with its prefix cache on and off by turns, `--rounds` pairs in an order drawn at random.
Both launches of a pair get the same requests; the pair's ratio is the geometric mean over requests of TTFT without the
cache over TTFT with it, and the interval of the ratio is Student's t over the pairs. Beside it the tokens that the
answers count as cached and those of the server's own counters, over all requests of a launch, warm-up too. Writes
prefix.md and prefix.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.api import EngineSpec
from engines.errors import EngineError
from engines.launching import load_engine
from harness.load.driver import drive
from harness.load.metrics_scraper import Scraper
from harness.load.plan import LoadPlan
from harness.measure.engine_metrics.scrapes import increase
from harness.measure.statistics.distributions import t_quantile
from harness.scenario.resolve import resolve
from harness.scenario.schema import Scenario
from harness.trial.inputs import TrialInputs, read_inputs
from harness.trial.request_texts import RequestTexts

SHAPE = "smollm2-135m"
SWITCH = {"llamacpp": "cache_prompt", "vllm": "enable_prefix_caching"}
MORE: dict[str, dict[str, Any]] = {"llamacpp": {}, "vllm": {"enforce_eager": True}}
TOKENS = 8
READY_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What one launch gave: TTFT in ms by request, cached tokens by its answers and by its counters."""

    ttft_ms: dict[int, float]
    failed: int
    by_answers: int
    by_counters: float | None


def _inputs(asked: argparse.Namespace, engine: str) -> TrialInputs:
    workload = {
        "load": {"kind": "closed", "users": 1}, "requests": asked.requests, "warmup_requests": 2,
        "lengths": {"input": asked.input, "shared": asked.shared, "output": TOKENS},
    }  # fmt: skip
    scenario = {"name": "prefix", "model": {"shape": SHAPE}, "workload": workload, "space": [{"engine": engine}]}
    return read_inputs(resolve(Scenario.model_validate(scenario), Path.cwd() / "prefix.yaml"))


def launched(engine: str, asked: argparse.Namespace, inputs: TrialInputs, *, is_on: bool) -> Launch:
    """One launch under one load, one user."""
    options = {**MORE[engine], SWITCH[engine]: is_on, **({"max_model_len": 4096} if engine == "vllm" else {})}
    spec = EngineSpec(engine=engine, model_dir=inputs.model_dir, dtype="fp32", batch_size=1, options=options)
    with tempfile.TemporaryDirectory(prefix="dyno-prefix-") as name:
        folder = Path(name)
        with load_engine(engine, None).launch(spec, folder, READY_S) as running:
            endpoint = running.endpoint
            plan = LoadPlan(
                endpoint_url=endpoint.url, protocol=endpoint.protocol, model_name=endpoint.model_name,
                dialect=endpoint.dialect, prompts=inputs.prompts, inputs_per_request=1,
                parameters={"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}, users=1, think_time_s=0.0,
                warmup_requests=2, requests=asked.requests, max_duration_s=60 * asked.minutes, request_timeout_s=120.0,
                stream=True, seed=asked.seed,
            )  # fmt: skip
            plan = RequestTexts(inputs).filled(plan, inputs.model_dir)
            with Scraper(endpoint) as scraper:
                result = drive(plan, folder, should_stop=running.failure, on_progress=lambda done: None)
        good = [record for record in result.records if record.outcome == "ok"]
        return Launch(
            ttft_ms={r.seq: (r.token_ns[0] - r.sent_ns) / 1e6 for r in good if not r.is_warmup and len(r.token_ns)},
            failed=len(result.records) - len(good),
            by_answers=sum(record.cached_tokens or 0 for record in good),
            by_counters=increase(scraper.metrics.scrapes, "prefix_hits"),
        )


def log_ratio(off: Launch, on: Launch) -> float:
    """The logarithm of TTFT without the cache over TTFT with it, a mean over the requests that both answered."""
    both = sorted(set(off.ttft_ms) & set(on.ttft_ms))
    if not both:
        raise SystemExit("no request was answered by both launches of a pair: measure longer (--minutes)")
    return float(np.mean([math.log(off.ttft_ms[seq] / on.ttft_ms[seq]) for seq in both]))


def interval(logs: Sequence[float]) -> tuple[float, float, float]:
    """(ratio, low, high), 95 % by Student's t over pairs of launches; of a single pair everything from 0 to inf."""
    mean = float(np.mean(logs))
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    half = t_quantile(0.975, len(logs) - 1) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def measured(engine: str, asked: argparse.Namespace) -> dict[str, Any]:
    """All pairs of launches of an engine."""
    inputs, chance = _inputs(asked, engine), random.Random(asked.seed)
    pairs: list[dict[bool, Launch]] = []
    for _ in range(asked.rounds):
        order = [True, False]
        chance.shuffle(order)
        pairs.append({is_on: launched(engine, asked, inputs, is_on=is_on) for is_on in order})
        print(f"{engine}: pair {len(pairs)} of {asked.rounds}", flush=True)
    ratio, low, high = interval([log_ratio(pair[False], pair[True]) for pair in pairs])

    def median_ms(is_on: bool) -> float:
        return float(np.median([value for pair in pairs for value in pair[is_on].ttft_ms.values()]))

    return {
        "engine": engine, "pairs": len(pairs), "ttft_off_ms": median_ms(False), "ttft_on_ms": median_ms(True),
        "ratio": ratio, "low": low, "high": high if math.isfinite(high) else None,
        "failed": sum(launch.failed for pair in pairs for launch in pair.values()),
        "requests": [[len(pair[is_on].ttft_ms) for is_on in (True, False)] for pair in pairs],
        "cached_by_answers": [pair[True].by_answers for pair in pairs],
        "cached_by_counters": [pair[True].by_counters for pair in pairs],
        "cached_when_off": [[pair[False].by_answers, pair[False].by_counters] for pair in pairs],
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]], asked: argparse.Namespace, load: float) -> str:
    """Markdown."""
    lines = [
        f"`make bench-prefix`: {SHAPE}, fp32, 1 user, {asked.requests} inputs of {asked.input} tokens a launch that "
        f"share their first {asked.shared}; load average before: {load:.2f} on {os.cpu_count()} cores.",
        "",
        "| engine | pairs | TTFT p50 off, ms | on, ms | off / on, 95 % | cached tokens by answers | by counters |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        high = "inf" if row["high"] is None else f"{row['high']:.2f}"
        answers = ", ".join(map(str, row["cached_by_answers"]))
        counters = ", ".join("not published" if each is None else f"{each:.0f}" for each in row["cached_by_counters"])
        lines.append(
            f"| {row['engine']} | {row['pairs']} | {row['ttft_off_ms']:.1f} | {row['ttft_on_ms']:.1f} | "
            f"{row['ratio']:.2f} [{row['low']:.2f}, {high}] | {answers} | {counters} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure each engine and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engines", nargs="+", choices=SWITCH, default=list(SWITCH))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--input", type=int, default=1200)
    parser.add_argument("--shared", type=int, default=1024)
    parser.add_argument("--minutes", type=float, default=2.0, help="at most, of one launch's load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results") / "local" / "bench-prefix")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for engine in asked.engines:
        try:
            rows.append(measured(engine, asked))
        except EngineError as error:
            raise SystemExit(f"{engine}: {error}") from None
        about = {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load_1min_before": load}
        (asked.out / "prefix.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
        (asked.out / "prefix.md").write_text(table(rows, asked, load))
    print((asked.out / "prefix.md").read_text())


if __name__ == "__main__":
    main()
