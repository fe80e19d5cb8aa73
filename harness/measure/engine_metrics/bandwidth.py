"""The share of the machine's measured memory bandwidth that a load's steps take at least, by their weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.measure.doubts import measured
from harness.measure.engine_metrics.limits import MIN_SCRAPES, OFTEN_FRAC
from harness.measure.engine_metrics.scrapes import EngineMetrics, increase, series
from harness.measure.machine.memory_roof import MemoryRoof
from harness.records import Metric, NamedLimit, RequestRecord, TrialSummary
from harness.units import NS_PER_S

NEAR_FRAC = 0.70
"""Of the bandwidth measured. Keys, values and activations are read too and not counted, so that less is left than it
seems."""
MOST_FRAC = 1.25
"""More than this cannot be: then weights, steps or roof are not what they are taken for, and nothing is named."""
BEYOND_CACHE = 2.0
"""Weights of less than so many times the caches' size are not surely read from memory, which then bounds nothing."""
NAME = "weights_read_frac"


def with_weights_read(
    summary: TrialSummary,
    metrics: EngineMetrics,
    records: Sequence[RequestRecord],
    window_ns: tuple[int, int],
    step_bytes: float,
    roof: MemoryRoof,
) -> TrialSummary:
    """The summary with the share as a metric, the limit where the share is near the roof, or why it is not known."""
    steps, rows, missing = _steps_per_s(metrics, records, window_ns)
    share = steps * step_bytes / roof.read_bps
    if not missing and share > MOST_FRAC:
        missing = (
            f"{share:.0%} of what {roof.threads} threads were measured to read ({roof.read_bps / 1e9:.3g} GB/s) cannot "
            "be: weights, requests in a step or that measurement are not what they are taken for"
        )
    if missing:
        return replace(summary, unavailable={**summary.unavailable, NAME: missing})
    how = "weights that a step reads x steps/s, over the bandwidth that this machine's threads were measured to read"
    metric = Metric(value=share, unit="frac", estimator=how, n=len(measured(records)))
    summary = replace(summary, metrics={**summary.metrics, NAME: metric})
    if share < NEAR_FRAC:
        return summary
    limit = NamedLimit(
        kind="memory_bandwidth",
        sentence=f"memory bandwidth near its measured roof: at least {steps * step_bytes / 1e9:.3g} GB/s of weights "
        f"were read ({step_bytes / 1e9:.3g} GB a step, {steps * rows:.3g} tokens/s by {rows:.3g} requests in a step), "
        f"{share:.0%} of the {roof.read_bps / 1e9:.3g} GB/s that {roof.threads} threads read here",
    )
    return replace(summary, limits=(*(summary.limits or ()), limit))


def _steps_per_s(
    metrics: EngineMetrics, records: Sequence[RequestRecord], window_ns: tuple[int, int]
) -> tuple[float, float, str]:
    """(steps a second, requests in one, '') or (0, 0, why that is not known). Each step writes one token of every
    request that runs; where the number of those varies, the mean over the scrapes with any gives too few steps."""
    begin_ns, end_ns = window_ns
    good = [record for record in records if record.outcome == "ok" and begin_ns < record.done_ns <= end_ns]
    if any(len(record.prompt_ids) > 1 for record in good):
        return 0.0, 0.0, "a request carries several inputs, so that the rows of a step are not known from requests"
    if not good or any(record.output_tokens is None for record in good):
        return 0.0, 0.0, "the tokens of answers were not counted"
    if increase(metrics.around(begin_ns, end_ns), "drafted"):
        return 0.0, 0.0, "the server drafts tokens, so that a step may write several"
    running = series(metrics.within(begin_ns, end_ns), "running")
    busy = [each for each in running if each >= 1]
    if len(running) < MIN_SCRAPES or len(busy) < OFTEN_FRAC * len(running):
        return 0.0, 0.0, "how many requests run at once is not published, or was looked at too rarely"
    rows = sum(busy) / len(busy)
    tokens = sum(record.output_tokens or 0 for record in good)
    return tokens * NS_PER_S / (end_ns - begin_ns) / rows, rows, ""
