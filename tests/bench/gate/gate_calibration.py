"""How often `dyno gate` errs on real runs: real server, real load generator, real run folders, the real gate.

    python -m tests.bench.gate.gate_calibration --gates 300 --power-gates 30

A/A: one fake engine with a lognormal law is launched and driven for a long time; its requests are cut into short
consecutive runs, labelled baseline and candidate in ABBA order, written to run folders and judged from there, so that
whatever the machine does to neighbouring runs is in the verdicts. A busy machine is no excuse for a false alarm, so it
may run beside anything. Power: a baseline server, the same again, and one slower by each of the stated factors, driven
at the same time, their service time so long that the queues of a small machine add little: a latency must really differ
by about the factor (how much it did is in the report). It is a statement about the stated n on a quiet machine. Rates
come with exact bounds (Clopper & Pearson, 95 %).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from engines.api import EngineSpec
from engines.launching import load_engine
from harness.gate.gate import gate
from harness.gate.rules import Rules
from harness.gate.verdict import GateResult
from harness.load.driver import drive
from harness.load.plan import LoadPlan
from harness.measure.machine.facts import machine_facts
from harness.measure.machine.sampler import ResourceUse
from harness.measure.summarize import summarize
from harness.records import Candidate, Prompt, RequestRecord, Trial
from harness.store.formats import RunManifest
from harness.store.pairs import PAIRS_JSON, Pairs
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from tests.harness.gate.simulated import lower_bound, upper_bound

T = TypeVar("T")
Runs = list[tuple[RequestRecord, ...]]
POINT = Candidate(block=0, engine="fake")
SLOWER = {"latency_p50_ms": 1.05, "latency_p99_ms": 1.10}
"""What the gate shall find: a server slower by the factor, judged by the metric."""
SIGMA = 0.1
"""Of the programmed lognormal law: the middle half of the requests lies within 7 %."""
RULES = Rules.model_validate({"metrics": {"peak_memory_mib": {"ignore": True}}})
NO_BUDGET = Rules.model_validate(
    {
        "metrics": {
            "latency_p50_ms": {"max_increase": 0.0},
            "latency_p99_ms": {"max_increase": 0.0},
            "throughput_rps": {"max_decrease": 0.0},
            "error_frac": {"max_increase": 0.0},
            "peak_memory_mib": {"ignore": True},
        }
    }
)
"""Any worsening counts: the level is spent whole."""
MANIFEST = RunManifest(scenario={"name": "calibration"}, digest="calibrate", machine=machine_facts())


@dataclass(frozen=True, kw_only=True)
class Size:
    """One gate: `launches` short runs of each side, `requests` in each."""

    launches: int
    requests: int
    service_ms: float
    users: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gates", type=int, default=300, help="A/A pairs; 0: none")
    parser.add_argument("--launches", type=int, default=5, help="short runs of each side in an A/A pair")
    parser.add_argument("--requests", type=int, default=100, help="requests of a short run")
    parser.add_argument("--power-gates", type=int, default=30, help="gates per factor; 0: no power")
    parser.add_argument("--power-launches", type=int, default=16)
    parser.add_argument("--power-requests", type=int, default=400)
    parser.add_argument("--power-service-ms", type=float, default=60.0, help="median service time of the baseline")
    parser.add_argument(
        "--power-users", type=int, default=9, help="of each of the four servers, which have as many workers"
    )
    asked = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dyno-gate-") as folder:
        root = Path(folder)
        size = Size(launches=asked.launches, requests=asked.requests, service_ms=4.0, users=8)
        report: dict[str, object] = {"machine": dict(MANIFEST.machine)}
        if asked.gates:
            report["a_a"] = false_alarms(root, asked.gates, size)
        power = Size(
            launches=asked.power_launches, requests=asked.power_requests, service_ms=asked.power_service_ms,
            users=asked.power_users,
        )  # fmt: skip
        if asked.power_gates:
            report |= found(root, asked.power_gates, power)
    report["seconds"] = round(time.monotonic() - begin)
    print(json.dumps(report, indent=2))


def false_alarms(root: Path, gates: int, size: Size) -> dict[str, object]:
    """A/A verdicts with the default budgets and with none."""
    per_gate = 2 * size.launches * size.requests
    counted: dict[str, Counter[str]] = {"default budgets": Counter(), "no budgets": Counter()}
    done = 0
    for chunk in batched(range(gates), 30):
        (records,) = driven(root, size, [size.service_ms], len(chunk) * per_gate, seed=chunk[0])
        for own in batched(records, per_gate):
            runs = list(batched(own, size.requests))
            sides = split_abba(runs)
            for name, rules in (("default budgets", RULES), ("no budgets", NO_BUDGET)):
                counted[name][judged(root, sides, rules).verdict] += 1
            done += 1
        print(f"{done} A/A gates: {counted}", flush=True)
    return {
        "gates": done,
        "launches of each side": size.launches,
        "requests of each launch": size.requests,
        **{
            name: {**verdicts, "false alarms at most (95 %)": round(upper_bound(verdicts["regressed"], done), 4)}
            for name, verdicts in counted.items()
        },
    }


def found(root: Path, gates: int, size: Size) -> dict[str, dict[str, object]]:
    """How often a server slower by a factor (its service time and thereby nearly all of its latency) is called
    regressed, for each of SLOWER, and what the same law in a server of its own is called. All are driven at the same
    time."""
    per_side = size.launches * size.requests
    seen: dict[str, list[tuple[str, float]]] = {name: [] for name in SLOWER}
    unchanged: Counter[str] = Counter()
    for chunk in batched(range(gates), 5):
        laws = [size.service_ms * factor for factor in (1.0, 1.0, *SLOWER.values())]
        before, same, *slower = driven(root, size, laws, len(chunk) * per_side, seed=chunk[0])
        for sides in paired(before, same, size):
            unchanged[judged(root, sides, RULES).verdict] += 1
        for metric, now in zip(SLOWER, slower, strict=True):
            for sides in paired(before, now, size):
                result = judged(root, sides, RULES)
                row = next(each for each in result.judged if each.comparison.metric == metric)
                seen[metric].append((row.verdict, row.change or 0.0))
        message = (f"{metric} {_called(rows)} of {len(rows)}" for metric, rows in seen.items())
        print(f"called regressed: {', '.join(message)}; the same law: {dict(unchanged)}", flush=True)
    about: dict[str, object] = {
        "gates": gates,
        "launches of each side": size.launches,
        "requests of each launch": size.requests,
        "service, ms": size.service_ms,
        "users": size.users,
    }
    return {"the same law": {**about, **unchanged}} | {
        f"power {metric} x{SLOWER[metric]}": {
            **about,
            "called regressed": _called(rows),
            "power at least (95 %)": round(lower_bound(_called(rows), len(rows)), 3),
            "mean change seen": round(statistics.fmean(change for _, change in rows), 4),
            "least and largest change seen": [round(bound([c for _, c in rows]), 4) for bound in (min, max)],
        }
        for metric, rows in seen.items()
    }


def paired(
    before: tuple[RequestRecord, ...], now: tuple[RequestRecord, ...], size: Size
) -> Iterator[tuple[Runs, Runs]]:
    """Both sides of each gate, cut into its short runs."""
    per_side = size.launches * size.requests
    for one, other in zip(batched(before, per_side), batched(now, per_side), strict=True):
        yield list(batched(one, size.requests)), list(batched(other, size.requests))


def _called(rows: Sequence[tuple[str, float]]) -> int:
    return sum(verdict == "regressed" for verdict, _ in rows)


def driven(
    root: Path, size: Size, services_ms: Sequence[float], requests: int, seed: int
) -> list[tuple[RequestRecord, ...]]:
    """The measured requests of one server per service time, all driven at the same time."""
    with ExitStack() as stack, ThreadPoolExecutor(len(services_ms)) as pool:
        waiting = []
        for at, service_ms in enumerate(services_ms):
            workdir = root / f"server-{at}"
            spec = EngineSpec(
                engine="fake", model_dir=root, workers=size.users,
                options={"law": "lognormal", "service_ms": service_ms, "sigma": SIGMA, "seed": seed + at},
            )  # fmt: skip
            running = stack.enter_context(load_engine("fake").launch(spec, workdir, 120.0))
            plan = plan_of(running.endpoint.url, requests, size.users, seed)
            waiting.append(
                pool.submit(drive, plan, workdir, should_stop=running.failure, on_progress=lambda done: None)
            )
        return [
            tuple(record for record in each.result().records if not record.is_warmup)[:requests] for each in waiting
        ]


def plan_of(url: str, requests: int, users: int, seed: int) -> LoadPlan:
    return LoadPlan(
        endpoint_url=url,
        protocol="djl",
        model_name="model",
        prompts=tuple(Prompt(prompt_id=f"p{n}", task="echo", text=f"say {n}", reference=None) for n in range(16)),
        inputs_per_request=1,
        parameters={"max_new_tokens": 8},
        users=users,
        think_time_s=0.0,
        warmup_requests=100,
        requests=requests,
        max_duration_s=3600.0,
        request_timeout_s=60.0,
        stream=False,
        seed=seed,
    )


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Tuples of `size` consecutive items; the last may be shorter."""
    iterator = iter(items)
    while part := tuple(islice(iterator, size)):
        yield part


def split_abba(runs: Runs) -> tuple[Runs, Runs]:
    """Consecutive runs as pairs, the order turned round in every second pair."""
    pairs = [(runs[at], runs[at + 1]) for at in range(0, len(runs) - 1, 2)]
    ordered = [pair if at % 2 == 0 else (pair[1], pair[0]) for at, pair in enumerate(pairs)]
    return [one for one, _ in ordered], [other for _, other in ordered]


def judged(root: Path, sides: tuple[Runs, Runs], rules: Rules) -> GateResult:
    """Write both sides as run folders, with their pairs, and judge what was written."""
    folders = [stored(root, runs) for runs in sides]
    ids = tuple((trial_id(at), trial_id(at)) for at in range(len(sides[0])))
    (folders[1] / PAIRS_JSON).write_text(Pairs(baseline=folders[0].name, share=1.0, trial_ids=ids).as_text())
    return gate([read_run(folders[0])], read_run(folders[1]), rules)


def stored(root: Path, runs: Runs) -> Path:
    with RunWriter.create(root / "runs", MANIFEST) as writer:
        for at, records in enumerate(runs):
            begin_ns, end_ns = records[0].intended_ns, max(record.done_ns for record in records)
            use = ResourceUse(
                window_s=(end_ns - begin_ns) / 1e9, cores=1, engine_s=0.0, harness_s=0.0, client_s=0.0, other_s=0.0,
                peak_memory_bytes=None, memory_kind="PSS", samples=0,
            )  # fmt: skip
            summary = summarize(records, begin_ns, end_ns, use, load_s=0.0)
            writer.write_requests(trial_id(at), records)
            trial = Trial(trial_id=trial_id(at), number=at + 1, candidate=POINT, outcome="ok", summary=summary)
            writer.append_trial(trial)
        return writer.layout.root


def trial_id(at: int) -> str:
    return f"t{at + 1:04d}"


if __name__ == "__main__":
    main()
