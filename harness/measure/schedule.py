"""The schedule of an open loop as measured: rate asked for, rate really sent, and lateness of each request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.measure.statistics.estimators import percentile, rate, share
from harness.records import Metric, RequestRecord
from harness.units import NS_PER_S

KEPT_TURN_FRAC = 0.97
"""Of the trace's turns per second; below, a trial states that it was another load."""


def schedule_metrics(chosen: Sequence[RequestRecord], begin_ns: int, asked_rps: float | None) -> dict[str, Metric]:
    """rate_asked_rps, rate_delivered_rps, lag_* of measured requests in the order of their intended sends; slip_* where
    turns follow each other."""
    if len(chosen) < 2:
        return {}
    last_ns = max(own_ns(record) for record in chosen)
    asked = asked_rps or (len(chosen) - 1) * NS_PER_S / max(1, last_ns - chosen[0].intended_ns)
    metrics = {
        "rate_asked_rps": Metric(
            value=asked, unit="requests/s", estimator="requests over duration of the schedule", n=len(chosen)
        )
    }
    sent = [record for record in chosen if was_sent(record)]
    if not sent:
        return metrics
    # The schedule's own duration, longer by what the last request was late: on time, delivered is asked, exactly.
    end_ns = begin_ns + int(len(chosen) / asked * NS_PER_S) + max(0, max(r.sent_ns for r in sent) - last_ns)
    times = [min(record.sent_ns, end_ns) for record in sent]
    delivered = rate(times, [1.0] * len(sent), (begin_ns, end_ns), unit="requests/s", block=1)
    label = "requests that left over the schedule's duration, lengthened by the last one's lag, 95 % block bootstrap"
    lags = [record.sent_ns - record.intended_ns for record in sent]
    metrics["rate_delivered_rps"] = replace(delivered, estimator=label)
    metrics["lag_p50_ms"] = percentile(lags, 0.5)
    metrics["lag_p99_ms"] = percentile(lags, 0.99)
    return metrics | slip_metrics(chosen)


def slip_metrics(chosen: Sequence[RequestRecord]) -> dict[str, Metric]:
    """How far turns that follow another were due behind their own times, because that one's answer came late."""
    slips = [record.intended_ns - record.planned_ns for record in chosen if record.planned_ns is not None]
    if not slips:
        return {}
    note = "turns that follow another; what a conversation lost is in every later turn"
    estimator = "share of turns that were due after their own time in the schedule"
    return {
        "slip_p50_ms": percentile(slips, 0.5, note=note),
        "slip_p99_ms": percentile(slips, 0.99, note=note),
        "slip_late_frac": share([slip > 0 for slip in slips], estimator=estimator),
    }


def late_turns(chosen: Sequence[RequestRecord]) -> str:
    """'' or that conversations ran behind their trace: fewer than 97 % of its turns per second left."""
    turns = [record for record in chosen if record.planned_ns is not None]
    if not turns:
        return ""
    first_ns, last_ns = (pick(own_ns(record) for record in chosen) for pick in (min, max))
    end_ns = max(record.intended_ns for record in chosen)
    kept_frac = (last_ns - first_ns) / max(1, end_ns - first_ns)
    if kept_frac >= KEPT_TURN_FRAC:
        return ""
    late = sum(record.intended_ns > own_ns(record) for record in turns)
    return (
        f"the engine kept {kept_frac:.0%} of the schedule's rate of turns (limit {KEPT_TURN_FRAC:.0%}): {late} of "
        f"{len(turns)} turns were due later than there, the last request {(end_ns - last_ns) / NS_PER_S:.3g} s "
        "later, because answers before them came late; latencies are those of a lighter load, slip_p99_ms has the rest"
    )


def own_ns(record: RequestRecord) -> int:
    """When a request was due by the schedule alone, whatever it had to wait for."""
    return record.intended_ns if record.planned_ns is None else record.planned_ns


def connect_metrics(records: Sequence[RequestRecord]) -> dict[str, Metric]:
    """connect_p99_ms over every connection opened, warm-up included: that is where most are."""
    times = [record.connect_ns for record in records if record.connect_ns is not None]
    return {"connect_p99_ms": percentile(times, 0.99)} if times else {}


def was_sent(record: RequestRecord) -> bool:
    """False for a request that timed out in the client's queue: no user ever sent it (user -1)."""
    return record.user >= 0
