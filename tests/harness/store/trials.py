"""Hypothesis strategies for every record, and one full trial."""

from __future__ import annotations

from typing import get_args

from hypothesis import strategies as st

from harness.records import (
    Candidate,
    Doubt,
    DoubtKind,
    Metric,
    QualityReport,
    RequestRecord,
    Trial,
    TrialOutcome,
    TrialSummary,
)
from harness.store.formats import RunManifest

text = st.text(max_size=12)
number = st.floats(allow_nan=False)  # nan is not equal to itself; it has a test of its own
whole = st.integers(-(2**60), 2**60)
options = st.dictionaries(text, st.one_of(st.booleans(), whole, number, text), max_size=3)

metrics = st.builds(
    Metric,
    value=number,
    unit=text,
    estimator=text,
    n=whole,
    low=st.none() | number,
    high=st.none() | number,
    note=text,
)
named_metrics = st.dictionaries(text, metrics, max_size=3)
candidates = st.builds(
    Candidate,
    block=whole,
    engine=text,
    dtype=text,
    workers=whole,
    batch_size=whole,
    threads=st.none() | whole,
    options=options,
)
outcomes = st.sampled_from(get_args(TrialOutcome))
doubts = st.builds(Doubt, kind=st.sampled_from(get_args(DoubtKind)), sentence=text)
summaries = st.builds(TrialSummary, metrics=named_metrics)
trials = st.builds(
    Trial,
    trial_id=text,
    number=whole,
    candidate=candidates,
    outcome=outcomes,
    reason=text,
    started_utc=text,
    phase_s=st.dictionaries(text, number, max_size=3),
    effective_dtype=text,
    versions=st.dictionaries(text, text, max_size=2),
    notes=st.lists(text, max_size=3).map(tuple),
    summary=st.none() | st.builds(TrialSummary.doubted, summaries, st.lists(doubts, max_size=2)),
    quality=st.none()
    | st.builds(
        QualityReport,
        verdict=st.sampled_from(["Normal", "Degraded", "Broken", "Unknown"]),
        reason=text,
        metrics=named_metrics,
    ),
    violations=st.lists(text, max_size=2).map(tuple),
)
ns = st.integers(0, 2**62)
requests = st.builds(
    RequestRecord,
    seq=whole,
    user=st.integers(0, 2**30),
    prompt_ids=st.lists(text, max_size=3).map(tuple),
    intended_ns=ns,
    sent_ns=ns,
    first_token_ns=st.none() | ns,
    done_ns=ns,
    outcome=st.sampled_from(["ok", "rejected", "bad_request", "server_error", "timed_out", "connection_failed"]),
    status_code=st.integers(0, 599),
    input_tokens=st.none() | ns,
    output_tokens=st.none() | ns,
    output_ids=st.lists(text, max_size=3).map(tuple),
    is_warmup=st.booleans(),
    error=text,
    token_ns=st.lists(ns, max_size=4).map(tuple),
)


def a_trial(number: int = 0, **fields: object) -> Trial:
    """A finished trial with a number in each part."""
    metric = Metric(value=12.5, unit="ms", estimator="p50", n=200, low=12.0, high=13.0)
    values: dict[str, object] = {
        "trial_id": f"t{number:04d}",
        "number": number,
        "candidate": Candidate(block=0, engine="fake", options={"law": "constant:5"}),
        "outcome": "ok",
        "summary": TrialSummary(metrics={"latency_p50_ms": metric}),
        "quality": QualityReport(verdict="Normal", reason="equal", metrics={}),
    }
    return Trial(**{**values, **fields})  # type: ignore[arg-type]


def a_manifest(name: str = "quickstart") -> RunManifest:
    """A manifest with something of every kind in it."""
    return RunManifest(
        scenario={"name": name, "space": [{"engine": "fake", "batch_size": [1, 4]}], "limit": 1.5},
        digest="0123456789",
        machine={"cores": 2, "cpu_flags": ["avx2"]},
        versions={"numpy": "2.4.6"},
        created_utc="2026-01-02T03:04:05+00:00",
        dyno_version="0.1.0",
        command=("tune", "quickstart.yaml"),
    )
