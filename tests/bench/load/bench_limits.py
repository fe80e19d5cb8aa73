"""Whether limits of real servers are named, several loads each: make bench-limits.

Cases: `vllm-preempts` (a KV cache of about 40 % of what 8 users need), `llamacpp-one-slot` (8 users), `our-full-queue`
(8 users, one at a time, 4 may wait), `starved-client` (an open loop on our server, its load process frozen for 60 ms of
every 100), and `llamacpp-one-user`, which nothing but a starved client holds back. A case is launched once and loaded
`--times` over; each load is judged as a trial's is. Writes limits.md and limits.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engines.api import EngineSpec, RunningEngine
from engines.errors import EngineError
from engines.launching import load_engine
from harness.load.driver import drive
from harness.load.metrics_scraper import Scraper
from harness.load.plan import LoadPlan
from harness.measure.doubts import client_verdict
from harness.measure.engine_metrics.limits import limits_of
from harness.measure.engine_metrics.scrapes import increase
from harness.measure.machine.sampler import ResourceSampler
from harness.records import LimitKind, Prompt
from tests.truth.starving import frozen, load_processes

MODEL = Path(__file__).resolve().parents[3] / "scenarios" / "assets" / "llama-bench"
PROMPTS = tuple(
    Prompt(prompt_id=f"p{n}", task="t", text=" ".join(f"word{n}x{at}" for at in range(12)), reference=None)
    for n in range(50)
)
"""About 95 tokens each."""
TOKENS = 128
READY_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A server, its load, and the limit that is planted: '' where none is."""

    wanted: LimitKind | None
    setting: Mapping[str, Any]
    users: int = 8
    rate_rps: float = 0.0
    tokens: int = TOKENS
    starve: Callable[[list[int], float], None] | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "vllm-preempts": Case(
        wanted="kv_cache",
        setting={
            "engine": "vllm", "batch_size": 8,
            "options": {"enforce_eager": True, "block_size": 32, "num_gpu_blocks_override": 24, "max_model_len": 512},
        },
    ),
    "llamacpp-one-slot": Case(wanted="queue", setting={"engine": "llamacpp", "batch_size": 1}, tokens=32),
    "our-full-queue": Case(
        wanted="queue", setting={"engine": "transformers", "batch_size": 1, "job_queue_size": 4}, tokens=16
    ),
    "starved-client": Case(
        wanted="client", setting={"engine": "fake", "batch_size": 8, "options": {"service_ms": 5}}, rate_rps=40.0,
        tokens=2, starve=frozen,
    ),
    "llamacpp-one-user": Case(wanted=None, setting={"engine": "llamacpp", "batch_size": 1}, users=1, tokens=32),
}  # fmt: skip


def _plan(case: Case, running: RunningEngine, seconds: float, seed: int) -> LoadPlan:
    endpoint, gap_ns = running.endpoint, round(1e9 / case.rate_rps) if case.rate_rps else 0
    return LoadPlan(
        endpoint_url=endpoint.url, protocol=endpoint.protocol, model_name=endpoint.model_name, dialect=endpoint.dialect,
        prompts=PROMPTS, inputs_per_request=1,
        parameters={"max_new_tokens": case.tokens, "min_new_tokens": case.tokens}, users=case.users, think_time_s=0.0,
        warmup_requests=4, requests=100_000, max_duration_s=seconds, request_timeout_s=120.0, stream=False, seed=seed,
        offsets_ns=tuple(gap_ns * n for n in range(round(case.rate_rps * seconds))),
        window_s=seconds if case.rate_rps else 0.0,
    )  # fmt: skip


def _starved(starve: Callable[[list[int], float], None], seconds: float) -> Callable[[int], None]:
    """Called with the requests done: begins with the first one."""
    begun: list[threading.Thread] = []

    def hold() -> None:
        with suppress(ProcessLookupError):  # the load has ended
            starve([each.pid for each in load_processes()], seconds)

    def begin(done: int) -> None:
        if done and not begun:
            begun.append(threading.Thread(target=hold, daemon=True))
            begun[0].start()

    return begin


def judged(case: Case, running: RunningEngine, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """The limits that one load's numbers name, as a trial names them, with how much there was to judge by."""
    plan = _plan(case, running, seconds, seed)
    on_progress = _starved(case.starve, seconds) if case.starve else lambda done: None
    with ResourceSampler(lambda: running.pids) as sampler, Scraper(running.endpoint) as scraper:
        result = drive(plan, folder, should_stop=running.failure, on_progress=on_progress)
    use = sampler.use(result.begin_ns, result.end_ns, result.client_cpu_s, result.processes)
    use = replace(use, client_s=sum(result.client_busy_s))
    client = client_verdict(result.records, use, is_open_loop=plan.is_open_loop) or ""
    limits = limits_of(scraper.metrics, result.records, (result.begin_ns, result.end_ns), client)
    return {
        "limits": [{"kind": limit.kind, "sentence": limit.sentence} for limit in limits],
        "answered": sum(record.outcome == "ok" for record in result.records),
        "scrapes": len(scraper.metrics.scrapes), "preemptions": increase(scraper.metrics.scrapes, "preemptions"),
    }  # fmt: skip


def measured(name: str, times: int, seconds: float, seed: int) -> dict[str, Any]:
    """One launch of a case and its loads."""
    case = CASES[name]
    loads: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dyno-limits-") as folder:
        spec = EngineSpec(model_dir=MODEL, **case.setting)
        with load_engine(spec.engine, None).launch(spec, Path(folder), READY_S) as running:
            for number in range(times):
                within = Path(folder) / str(number)
                within.mkdir()
                loads.append(judged(case, running, within, seconds, seed + number))
    named = [{limit["kind"] for limit in load["limits"]} for load in loads]
    wanted: set[str] = {case.wanted} if case.wanted else set()
    return {
        "case": name, "wanted": case.wanted or "none", "loads": loads,
        "named": sum(wanted <= each if wanted else not each for each in named),
        "others": sum(bool(each - wanted) for each in named),
    }  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]], load: float, seconds: float) -> str:
    """Markdown."""
    lines = [
        f"Each case launched once and loaded again and again for {seconds:g} s; load average before: {load:.2f} on "
        f"{os.cpu_count()} cores.",
        "",
        "| case | planted | named | loads with another limit | the first load's sentence |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for row in rows:
        first = "; ".join(limit["sentence"] for limit in row["loads"][0]["limits"])
        lines.append(
            f"| {row['case']} | {row['wanted']} | {row['named']} of {len(row['loads'])} | {row['others']} | {first} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Load each case and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results") / "local" / "bench-limits")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in asked.cases:
        try:
            rows.append(measured(name, asked.times, asked.seconds, asked.seed))
        except EngineError as error:
            raise SystemExit(f"{name}: {error}") from None
        about = {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load_1min_before": load}
        (asked.out / "limits.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
        (asked.out / "limits.md").write_text(table(rows, load, asked.seconds))
        print(f"{name}: {rows[-1]['named']} of {asked.times}", flush=True)
    print((asked.out / "limits.md").read_text())


if __name__ == "__main__":
    main()
