"""The server's prefix cache beside what a load shares: its published size, and what a cache so large would have."""

from __future__ import annotations

from dataclasses import replace

from harness.load.schedule.request_times import Schedule
from harness.load.schedule.trace_blocks import lru_hit_frac
from harness.measure.engine_metrics.prefix_cache import prefix_cache
from harness.measure.engine_metrics.scrapes import EngineMetrics
from harness.records import Metric, TrialSummary

SIZE = "prefix cache size"
LRU = "cached_input_lru_frac"
BY_SLOTS = "the server keeps one request in each slot, no blocks"


def with_prefix_cache(
    summary: TrialSummary, metrics: EngineMetrics, schedule: Schedule | None, block_tokens: int, new_tokens: int
) -> TrialSummary:
    """The summary of a load whose inputs share beginnings, with the cache that its server published or why there is
    none; of a `schedule` with blocks also what such a cache would have, its least recently used blocks given up. An
    answer to which the trace gives no length has up to `new_tokens`."""
    found = prefix_cache(metrics)
    if isinstance(found, str):
        return replace(summary, unavailable={**summary.unavailable, SIZE: found})
    summary = replace(summary, prefix_cache=found)
    if schedule is None or not schedule.blocks:
        return summary
    if found.slots:
        return replace(summary, unavailable={**summary.unavailable, LRU: BY_SLOTS})
    inputs = [length or 0 for length in schedule.input_lengths]
    outputs = [length or new_tokens for length in schedule.output_lengths or [None] * len(inputs)]
    rows = zip(schedule.blocks, inputs, outputs, strict=True)
    metric = Metric(
        value=lru_hit_frac(rows, block_tokens, found),
        unit="frac",
        estimator=(
            f"whole blocks of {found.block_tokens} tokens that a cache of {found.tokens:,} would have of the inputs, "
            "the least recently used given up, requests one at a time in their order; by the load itself"
        ),
        n=len(schedule.blocks),
    )
    return replace(summary, metrics={**summary.metrics, LRU: metric})
