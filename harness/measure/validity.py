"""Reasons to distrust a measurement, each one sentence with its numbers; and the verdict on the client.

Thresholds are stated here and nowhere else. `distrust` only doubts; `client_verdict` voids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.measure.device import ResourceUse
from harness.measure.stats import percentile, smallest_n
from harness.records import RequestRecord
from harness.units import ms_from_ns

OTHER_CPU_FRAC = 0.10
"""CPU of unrelated processes above this share of the machine: the engine did not have the machine it was given."""
CLIENT_CPU_FRAC = 0.20
"""CPU of the load generator above this share of the machine: on one host, it took that from the engine."""
CLIENT_SATURATED_FRAC = 0.90
"""A load process runs on one core (one event loop). Above this share of its core, latency is its own queue."""
CLIENT_BUSY_FRAC = 0.70
"""Doubt begins earlier: queueing delay grows as 1/(1 - share)."""
LAG_FRAC = 0.10
LAG_MIN_MS = 2.0
"""Requests leave late by more than 2 ms, and 10 % of the median latency, at the 99th percentile: the client lags."""
DRIFT_FRAC = 0.05
"""Medians of the two halves that differ by more than this, with intervals that do not meet: not a steady state."""
MIN_WINDOW_S = 2.0
"""In a shorter window one scheduling hiccup of 100 ms is already 5 %."""


def measured(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """The records without warm-up, by intended send."""
    return sorted((record for record in records if not record.is_warmup), key=lambda record: record.intended_ns)


def client_verdict(records: Sequence[RequestRecord], use: ResourceUse) -> str | None:
    """None, or the sentence that voids the trial: the load generator was the bottleneck, not the engine.

    Void when the load processes used more than 90 % of the cores they can use (one each).
    """
    if not measured(records) or use.window_s <= 0:
        return None
    share = use.client_s / (use.window_s * use.client_processes)
    if share <= CLIENT_SATURATED_FRAC:
        return None
    return (
        f"the load generator used {share:.0%} of its {use.client_processes} core(s) "
        f"(limit {CLIENT_SATURATED_FRAC:.0%}), so it was the bottleneck; "
        "use fewer users, longer answers or more load processes"
    )


def distrust(records: Sequence[RequestRecord], use: ResourceUse, *, is_open_loop: bool = False) -> tuple[str, ...]:
    """Every reason to doubt the numbers made from these records; empty when there is none."""
    chosen = measured(records)
    reasons = (
        _few_samples(chosen),
        _short_window(use),
        _failures(chosen),
        _other_cpu(use),
        _client_cpu(use),
        _lag(chosen),
        _drift(chosen),
        _token_counts(chosen),
    )
    return tuple(reason for reason in reasons if reason)


def _few_samples(chosen: Sequence[RequestRecord]) -> str:
    n, needed = sum(record.outcome == "ok" for record in chosen), smallest_n(0.99)
    if n >= needed:
        return ""
    return f"{n} answered requests: a 95 % interval for p99 needs {needed}, so latency_p99_ms has no upper bound"


def _short_window(use: ResourceUse) -> str:
    if use.window_s >= MIN_WINDOW_S:
        return ""
    return f"measured for {use.window_s:.2f} s only; under {MIN_WINDOW_S:g} s one hiccup moves every number"


def _failures(chosen: Sequence[RequestRecord]) -> str:
    failed = [record for record in chosen if record.outcome != "ok"]
    if not failed:
        return ""
    counts = {name: sum(record.outcome == name for record in failed) for name in {r.outcome for r in failed}}
    parts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    example = next((record.error for record in failed if record.error), "")
    return f"{len(failed)} of {len(chosen)} requests failed ({parts})" + (
        f", for instance: {example}" if example else ""
    )


def _other_cpu(use: ResourceUse) -> str:
    share = use.frac(use.other_s)
    if share <= OTHER_CPU_FRAC or use.engine_s is None:  # an attached engine may be the other process
        return ""
    return f"other processes used {share:.0%} of the machine's CPU while measuring (limit {OTHER_CPU_FRAC:.0%})"


def _client_cpu(use: ResourceUse) -> str:
    if use.window_s <= 0:
        return ""
    share, own = use.frac(use.client_s), use.client_s / (use.window_s * use.client_processes)
    if share > CLIENT_CPU_FRAC:
        return f"the load generator took {share:.0%} of the machine's CPU from the engine (limit {CLIENT_CPU_FRAC:.0%})"
    if own > CLIENT_BUSY_FRAC:
        return f"the load generator used {own:.0%} of its core(s); its own queueing is part of every latency"
    return ""


def _lag(chosen: Sequence[RequestRecord]) -> str:
    if not chosen:
        return ""
    lag_ms = float(np.quantile([ms_from_ns(record.sent_ns - record.intended_ns) for record in chosen], 0.99))
    median_ms = float(np.median([ms_from_ns(record.latency_ns) for record in chosen]))
    if lag_ms <= max(LAG_MIN_MS, LAG_FRAC * median_ms):
        return ""
    return f"requests left up to {lag_ms:.1f} ms late (99th percentile) at a median latency of {median_ms:.1f} ms"


def _drift(chosen: Sequence[RequestRecord]) -> str:
    """Compares the medians of the first and second half; both their difference and their intervals must agree on it."""
    ok = [record.latency_ns for record in chosen if record.outcome == "ok"]
    half = len(ok) // 2
    if half < smallest_n(0.5):
        return ""
    users = len({record.user for record in chosen})
    early, late = (percentile(part, 0.5, block=users) for part in (ok[:half], ok[half:]))
    low, high = sorted((early, late), key=lambda metric: metric.value)
    is_apart = low.high is not None and high.low is not None and low.high < high.low
    if not is_apart or high.value <= low.value * (1 + DRIFT_FRAC):
        return ""
    return (
        f"not a steady state: median latency {early.value:.3g} ms in the first half, {late.value:.3g} ms in the second"
    )


def _token_counts(chosen: Sequence[RequestRecord]) -> str:
    ok = [record for record in chosen if record.outcome == "ok"]
    missing = sum(record.output_tokens is None for record in ok)
    if not 0 < missing < len(ok):
        return ""
    return f"{missing} of {len(ok)} answers came without a token count; output_tokens_per_s is too low"
