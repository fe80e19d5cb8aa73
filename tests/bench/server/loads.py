"""One load against a server that runs: requests per second, latencies, and the CPU time of each process by request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from engines.api import Endpoint
from harness.load.driver import drive
from harness.load.plan import LoadPlan
from harness.load.schedule.arrivals import schedule_of
from harness.records import Prompt
from harness.scenario.load_kinds import PoissonLoad

ROOT = Path(__file__).resolve().parents[3]
MODEL_DIR = ROOT / "scenarios" / "assets" / "flan-t5-bench"
PROMPTS = MODEL_DIR.with_name("prompts") / "tasks.jsonl"
WARMUP = 50


class Asked(Protocol):
    """What a load needs to know of a server that runs: a RunningEngine has it."""

    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def pids(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one load showed. CPU in microseconds of one request: the server's first process, its others, the client."""

    requests: int
    failed: int
    rate_rps: float
    p50_ms: float
    p99_ms: float
    front_us: float
    workers_us: float
    client_us: float


def texts() -> list[str]:
    """The bundled prompts."""
    return [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]


def closed(running: Asked, folder: Path, users: int, seconds: float) -> Measured:
    """`users` who ask again as soon as they are answered."""
    return _load(running, folder, users=users, seconds=seconds)


def poisson(running: Asked, folder: Path, rate_rps: float, seconds: float, seed: int = 0) -> Measured:
    """Requests that leave at random, whatever is outstanding."""
    load = PoissonLoad(kind="poisson", rate_rps=rate_rps)
    made = schedule_of(load, requests=10**7, max_duration_s=seconds, seed=seed)
    return _load(running, folder, users=8, seconds=seconds, offsets_ns=made.offsets_ns, window_s=made.duration_s)


def _load(running: Asked, folder: Path, *, users: int, seconds: float, **schedule: Any) -> Measured:
    endpoint = running.endpoint
    prompts = tuple(Prompt(prompt_id=str(n), task="t", text=text, reference=None) for n, text in enumerate(texts()))
    plan = LoadPlan(
        endpoint_url=endpoint.url, protocol=endpoint.protocol, model_name=endpoint.model_name, prompts=prompts,
        inputs_per_request=1, parameters={}, users=users, think_time_s=0.0, warmup_requests=WARMUP, requests=10**8,
        max_duration_s=seconds, request_timeout_s=30.0, stream=False, seed=0, **schedule,
    )  # fmt: skip
    before = _cpu_s(running.pids)
    result = drive(plan, folder, should_stop=lambda: None, on_progress=lambda done: None)
    spent = {pid: after - before.get(pid, 0.0) for pid, after in _cpu_s(running.pids).items()}
    front, *others = [spent[pid] for pid in running.pids if pid in spent]
    measured = [record for record in result.records if not record.is_warmup]
    answered = [record for record in measured if record.outcome == "ok"]
    latency = np.array([record.done_ns - record.intended_ns for record in answered] or [0]) / 1e6
    everything = len(result.records)
    return Measured(
        requests=len(answered),
        failed=len(measured) - len(answered),
        rate_rps=len(answered) / ((result.end_ns - result.begin_ns) / 1e9),
        p50_ms=float(np.quantile(latency, 0.5)),
        p99_ms=float(np.quantile(latency, 0.99)),
        front_us=front / everything * 1e6,
        workers_us=sum(others) / everything * 1e6,
        client_us=result.client_cpu_s / max(1, len(measured)) * 1e6,
    )


def _cpu_s(pids: Sequence[int]) -> dict[int, float]:
    """User and system time of every process that still runs."""
    found = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[pid] = times.user + times.system
    return found
