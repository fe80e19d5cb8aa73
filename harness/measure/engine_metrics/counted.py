"""Metrics from a server's own counters: what they grew by between the scrapes around the measured window."""

from __future__ import annotations

from collections.abc import Sequence

from engines.metrics_page import Meaning
from harness.measure.doubts import measured
from harness.measure.engine_metrics.scrapes import EngineMetrics, increase
from harness.records import Metric, RequestRecord

SHARES: tuple[tuple[str, Meaning, Meaning, str], ...] = (
    (
        "prefix_hit_frac",
        "prefix_hits",
        "prefix_queries",
        "prompt tokens that its prefix cache had over those asked for",
    ),
    ("draft_accepted_frac", "accepted", "drafted", "speculative tokens accepted over those drafted"),
)
BETWEEN = "by the server's counters, from the scrape before the window to the one after it"


def counted(metrics: EngineMetrics, records: Sequence[RequestRecord], window_ns: tuple[int, int]) -> dict[str, Metric]:
    """Those whose counters the server publishes and which counted anything; no interval, since it counts all of them.

    `n` is the tokens, or the requests, that were counted."""
    chosen = measured(records)
    end_ns = max((record.intended_ns for record in chosen), default=window_ns[1])  # after it users run dry
    around = metrics.around(window_ns[0], end_ns)
    found = {}
    for name, part, whole, what in SHARES:
        grown, of = increase(around, part), increase(around, whole)
        if grown is not None and of:
            found[name] = Metric(value=min(1.0, grown / of), unit="frac", estimator=f"{what}, {BETWEEN}", n=round(of))
    preempted = increase(around, "preemptions")
    first_ns, last_ns = (around[0].at_ns, around[-1].at_ns) if around else (0, 0)
    done = sum(first_ns < record.done_ns <= last_ns and record.outcome == "ok" for record in records)
    if preempted is not None and done:
        how = f"requests put back over requests answered, {BETWEEN}"
        found["preemptions_per_request"] = Metric(
            value=preempted / done, unit="preemptions/request", estimator=how, n=done
        )
    return found
