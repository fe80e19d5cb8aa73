"""Metrics that cannot be measured with a user's locustfile, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.records import RequestRecord
from harness.units import ms_from_ns

NAMES_SHOWN = 6


def unavailable(records: Sequence[RequestRecord]) -> Mapping[str, str]:
    """Metric names -> why they cannot be measured with the user's own classes; no number is ever put in their place."""
    ok = [record for record in records if not record.is_warmup and record.outcome == "ok"]
    found = {
        "rate_asked_rps, rate_delivered_rps, lag_p50_ms, lag_p99_ms": (
            "the locustfile's users send when they are ready, no schedule states when a request was due; latency "
            "counts from the send"
        ),
        "connect_p99_ms": "the locustfile's own client opens its connections, inside the latency",
    }
    if all(record.output_tokens is None for record in ok):
        found["output_tokens_per_s"] = "the locustfile noted no output_tokens"
    if not any(record.token_ns for record in ok):
        found["ttft_*, itl_*, tpot_*"] = "the locustfile noted no token times (note.token())"
    return found


def mixture(records: Sequence[RequestRecord]) -> str:
    """'' or the sentence that the numbers pool requests of several names, with each one's count and median."""
    timed = [record for record in records if not record.is_warmup and record.outcome in ("ok", "timed_out")]
    names = list(dict.fromkeys(record.name for record in timed))
    if len(names) < 2:
        return ""
    listed = []
    for name in names[:NAMES_SHOWN]:
        own = [ms_from_ns(record.latency_ns) for record in timed if record.name == name]
        listed.append(f"{name} (n={len(own)}, median {np.median(own):.4g} ms)")
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (
        f"latency and throughput pool {len(names)} kinds of request: {', '.join(listed)}{more}; "
        "column name of the raw records separates them"
    )
