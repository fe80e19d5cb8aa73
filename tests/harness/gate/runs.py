"""Run folders with known numbers, written by the real writer and summarised by the real code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from harness.measure.machine.sampler import ResourceUse
from harness.measure.summarize import summarize
from harness.quality.equivalence import QualityRule, judge
from harness.records import Candidate, Prompt, RequestRecord, Trial, TrialOutcome, TrialSummary
from harness.store.formats import RunManifest
from harness.store.reader import Run, read_run
from harness.store.writer import RunWriter
from harness.units import NS_PER_MS

MACHINE: dict[str, object] = {
    "cpu_model": "Bench CPU", "cpu_flags": ["avx2", "fma"], "cores": 2, "cores_usable": 2, "cpu_quota_cores": None,
    "threads_per_core": 1, "numa_nodes": 1, "governor": "performance", "turbo": "off", "is_virtual": False,
    "kernel": "Linux 6.1", "memory_mib": 8000, "load_1min": 0.1, "python": "3.11.9",
}  # fmt: skip
SCENARIO: dict[str, object] = {
    "name": "gated",
    "workload": {"load": {"kind": "closed", "users": 2}, "inputs_per_request": 1, "requests": 200, "stream": False},
    "quality": {"prompts": 20},
    "resolved": {
        "prompts_path": "/somewhere/tasks.jsonl",
        "path": "/x/s.yaml",
        "model": {"kind": "path", "value": "/m"},
    },
}
POINT = Candidate(block=0, engine="fake", options={"law": "lognormal"})
PROMPTS = tuple(Prompt(prompt_id=f"p{n}", task="echo", text=f"say {n}", reference=f"{n}") for n in range(20))


def requests(seed: int, median_ms: float, n: int = 200, errors: int = 0) -> tuple[RequestRecord, ...]:
    """`n` requests of two users, lognormal latency with sigma 0.1, the first `errors` failed; 4 of warm-up."""
    rng = np.random.default_rng(seed)
    clock_ns = [0, 0]
    records = []
    for seq in range(n + 4):
        user = seq % 2
        latency_ns = int(median_ms * math.exp(0.1 * rng.normal()) * NS_PER_MS)
        is_failed = 4 <= seq < 4 + errors
        records.append(
            RequestRecord(
                seq=seq,
                user=user,
                prompt_ids=(f"p{seq % 20}",),
                intended_ns=clock_ns[user],
                sent_ns=clock_ns[user] + 1000,
                first_token_ns=None,
                done_ns=clock_ns[user] + latency_ns,
                outcome="server_error" if is_failed else "ok",
                status_code=500 if is_failed else 200,
                input_tokens=3,
                output_tokens=3,
                output_ids=(),
                is_warmup=seq < 4,
                error="broken" if is_failed else "",
            )
        )
        clock_ns[user] += latency_ns
    return tuple(records)


@cache
def _measured(
    seed: int, median_ms: float, n: int, errors: int, number: int
) -> tuple[tuple[RequestRecord, ...], TrialSummary]:
    records = requests(seed, median_ms, n, errors)
    measured = [record for record in records if not record.is_warmup]
    begin_ns, end_ns = measured[0].intended_ns, max(record.done_ns for record in measured)
    return records, summarize(records, begin_ns, end_ns, _use(number), load_s=1.0)


def a_run(
    root: Path,
    medians_ms: Sequence[float],
    *,
    seed: int = 0,
    wrong: int = 0,
    n: int = 200,
    errors: int = 0,
    machine: Mapping[str, object] | None = None,
    scenario: Mapping[str, object] | None = None,
    outcome: TrialOutcome = "ok",
    points: Sequence[Candidate] = (POINT,),
) -> Run:
    """A stored run of `points`: of each one launch per median, `wrong` of 20 answers wrong, `errors` failures each."""
    manifest = RunManifest(
        scenario={**SCENARIO, **(scenario or {})}, digest="0123456789", machine={**MACHINE, **(machine or {})}
    )
    answers = {p.prompt_id: "wrong" if at < wrong else str(p.reference) for at, p in enumerate(PROMPTS)}
    truth = {p.prompt_id: str(p.reference) for p in PROMPTS}
    with RunWriter.create(root, manifest) as writer:
        for number, (point, median) in enumerate(product(points, medians_ms), start=1):
            trial_id = f"t{number:04d}-{point.candidate_id}"
            base = Trial(trial_id=trial_id, number=number, candidate=point, outcome=outcome, reason="it fell over")
            if outcome == "ok":
                records, summary = _measured(seed * 1000 + number, median, n, errors, number)
                writer.write_requests(trial_id, records)
                writer.write_outputs(trial_id, {f"q:{key}": text for key, text in answers.items()})
                quality = judge(PROMPTS, answers, truth, QualityRule(max_exact_match_drop=1.0, min_reference_match=0.0))
                base = Trial(
                    trial_id=trial_id, number=number, candidate=point, outcome="ok", summary=summary, quality=quality
                )
            writer.append_trial(base)
        return read_run(writer.layout.root)


def _use(number: int) -> ResourceUse:
    return ResourceUse(
        window_s=4.0,
        cores=2,
        samples=20,
        peak_memory_bytes=(100 + number % 2) << 20,
        memory_kind="PSS",
        engine_s=1.0,
        harness_s=0.1,
        client_s=0.1,
        other_s=0.0,
        client_processes=1,
    )
