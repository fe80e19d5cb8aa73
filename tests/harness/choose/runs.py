"""Stored runs for tests: small trials made by hand, and whole run folders with raw records from a known law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.models.cache import model_digest
from harness.measure.machine.sampler import ResourceUse
from harness.measure.summarize import summarize
from harness.race import Race
from harness.records import Candidate, Metric, QualityReport, RequestRecord, Trial, TrialSummary
from harness.store.formats import RunManifest
from harness.store.reader import Run
from harness.store.writer import RunWriter

SCENARIO: dict[str, Any] = {
    "name": "made",
    "objectives": [{"metric": "latency_p50_ms", "goal": "minimize"}],
    "constraints": {"quality": "Normal", "latency_p99_ms": {"min": None, "max": 500.0}},
    "recommend": {"container": "dynamometer-0.1"},
    "resolved": {"model": {"kind": "path", "value": "/models/flan-t5-bench", "seed": 0}},
}

BUNDLED = Path(__file__).parents[3] / "scenarios" / "assets" / "flan-t5-bench"
ON_DISK: dict[str, Any] = {"model": {"kind": "path", "value": str(BUNDLED), "seed": 0}}
"""What a run resolves to whose model is still there."""

Interval = tuple[float, float, float]


def metric(
    value: float, low: float | None = None, high: float | None = None, *, unit: str = "ms", n: int = 400
) -> Metric:
    return Metric(value=value, unit=unit, estimator="made", n=n, low=low, high=high)


def candidate(engine: str = "transformers", **axes: Any) -> Candidate:
    return Candidate(block=0, engine=engine, **axes)


def trial(number: int, what: Candidate, p50: Interval, **changes: Any) -> Trial:
    """An ok trial whose P50 is (value, low, high); `metrics` adds to or replaces its other metrics."""
    value, low, high = p50
    metrics = {
        "latency_p50_ms": metric(value, low, high),
        "latency_p90_ms": metric(value * 1.5, low * 1.5, high * 1.5),
        "latency_p99_ms": metric(value * 2, low * 2, high * 2),
        "latency_max_ms": metric(value * 3),
        "throughput_rps": metric(1000 / value, unit="requests/s"),
        "error_frac": metric(0.0, 0.0, 0.01, unit="frac"),
        "peak_memory_mib": metric(300.0, unit="MiB"),
    }
    metrics.update(changes.pop("metrics", {}))
    doubts = changes.pop("doubts", ())
    made = Trial(
        trial_id=f"t{number:04d}-{what.candidate_id}",
        number=number,
        candidate=what,
        outcome="ok",
        started_utc="2026-01-02T03:04:05+00:00",
        effective_dtype=what.dtype,
        versions={what.engine: "1.2.3"},
        phase_s={"launch": 2.0, "quality": 1.0, "load": 5.0},
        summary=TrialSummary(metrics=metrics).doubted(doubts),
        quality=QualityReport(verdict="Normal", reason="64 of 64 prompts as the fp32 reference", metrics={}),
    )
    return replace(made, **changes)


def conversion(folder: Path) -> str:
    """A folder that is named as a conversion of the bundled model is; its weights are made up."""
    made = folder / f"{model_digest(BUNDLED)}-float32"
    made.mkdir(parents=True)
    (made / "model.bin").write_text("converted")
    return str(made)


def ended(number: int, what: Candidate, against: Trial, at_least_frac: float) -> Trial:
    """A trial that lost its race by P50, 10 % above the bound by its estimate."""
    assert against.summary is not None
    best = against.summary.metrics["latency_p50_ms"].value
    race = Race(
        against=against.trial_id, metric="latency_p50_ms", against_value=best, margin_frac=0.1, level=0.001, check=2,
        checks=4, requests=100, blocks=12, block_requests=8, worse_frac=(1 + at_least_frac) * 1.1 - 1,
        at_least_frac=at_least_frac, margin_why="two launches of t5 differ by 5 % (assumed)",
    )  # fmt: skip
    bound = Metric(
        value=best * (1 + race.worse_frac), unit="ms", estimator="race", method="race", n=100,
        low=best * (1 + at_least_frac),
    )  # fmt: skip
    made = trial(number, what, (best, best, best), race=race, outcome="ended_early", reason="it surely loses")
    assert made.summary is not None
    kept = {"latency_p50_ms": bound, "error_frac": made.summary.metrics["error_frac"]}
    return replace(made, summary=TrialSummary(metrics=kept))


def failed(number: int, what: Candidate, outcome: Any = "launch_failed", reason: str = "it would not start") -> Trial:
    return Trial(
        trial_id=f"t{number:04d}-{what.candidate_id}", number=number, candidate=what, outcome=outcome, reason=reason
    )


def run_of(*trials: Trial, **scenario: Any) -> Run:
    """A run that exists only in memory."""
    manifest = RunManifest(
        scenario={**SCENARIO, **scenario}, digest="abcdef0123", created_utc="2026-01-02T03:04:05Z", dyno_version="0.1.0"
    )
    return Run(root=Path("results/local/made/20260102T030405Z-abcdef0123"), manifest=manifest, trials=tuple(trials))


def records(
    median_ms: float, *, spread: float = 0.1, n: int = 400, users: int = 8, seed: int = 0
) -> list[RequestRecord]:
    """Closed loop with lognormal latency; the first 16 are warm-up."""
    rng = np.random.default_rng(seed)
    free_ns = [0] * users
    made = []
    for seq in range(n + 16):
        user = int(np.argmin(free_ns))
        sent = free_ns[user]
        done = sent + int(median_ms * 1e6 * rng.lognormal(0.0, spread))
        free_ns[user] = done
        made.append(
            RequestRecord(
                seq=seq, user=user, prompt_ids=(f"p{seq % 7}",), intended_ns=sent, sent_ns=sent + 50_000,
                first_token_ns=None, done_ns=done, outcome="ok", status_code=200, input_tokens=12, output_tokens=9,
                output_ids=(f"o{seq}",), is_warmup=seq < 16,
            )
        )  # fmt: skip
    return made


def measured_trial(number: int, what: Candidate, sent: Sequence[RequestRecord], **changes: Any) -> Trial:
    """A trial summarized from raw records, as the real road does it."""
    begin = min(r.intended_ns for r in sent if not r.is_warmup)
    end = max(r.done_ns for r in sent)
    use = ResourceUse(
        window_s=(end - begin) / 1e9, cores=2, engine_s=1.0, harness_s=0.1, client_s=0.01, other_s=0.0,
        peak_memory_bytes=300 << 20, memory_kind="pss", samples=20,
    )  # fmt: skip
    summary = summarize(sent, begin, end, use, load_s=2.0)
    return replace(trial(number, what, (1.0, 1.0, 1.0)), summary=summary, **changes)


def store(results: Path, trials: Sequence[Any], **scenario: Any) -> Path:
    """A run folder on disk; trials are Trial or (Trial, records)."""
    manifest = RunManifest(
        scenario={**SCENARIO, **scenario},
        digest="abcdef0123",
        machine={"cpu_model": "A CPU", "cores": 2, "memory_mib": 7900, "kernel": "Linux 6.1"},
        versions={"torch": "2.13.0"},
        created_utc="2026-01-02T03:04:05Z",
        dyno_version="0.1.0",
        command=("dyno", "tune", "made.yaml"),
    )
    with RunWriter.create(results, manifest) as writer:
        for item in trials:
            one, sent = item if isinstance(item, tuple) else (item, None)
            if sent is not None:
                writer.write_requests(one.trial_id, sent)
            writer.append_trial(one)
        writer.layout.search_json.write_text('{"stop": "budget", "reason": "made"}\n', encoding="utf-8")
        return writer.layout.root
