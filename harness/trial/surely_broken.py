"""Constraints that a load has broken whatever its remaining requests bring: no estimate, and no error to share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.choose.goals import Limit
from harness.gate.launches import quantile_of
from harness.records import RequestRecord
from harness.units import ms_from_ns


def surely_broken(limits: Sequence[Limit], records: Sequence[RequestRecord], planned: int) -> str:
    """'' or the first upper bound, of a latency or of the errors, that is broken even if every other one of `planned`
    requests is answered at once, in one sentence."""
    waits = np.array([ms_from_ns(record.latency_ns) for record in records if record.outcome in ("ok", "timed_out")])
    failed = sum(record.outcome != "ok" for record in records)
    for limit in limits:
        if limit.high is None:
            continue
        over, q = int((waits > limit.high).sum()), quantile_of(limit.metric)
        if limit.metric == "error_frac" and failed > limit.high * planned:
            what = f"{failed} requests failed"
        elif limit.metric == "latency_mean_ms" and waits.sum() > limit.high * planned:
            what = f"{len(waits)} answers took {waits.sum():.4g} ms together"
        elif limit.metric.startswith("latency_") and q is not None and over >= planned - math.floor((planned - 1) * q):
            what = f"{over} requests took longer"
        else:
            continue
        return f"{limit.metric} surely above {limit.high:g}: {what}, and {planned} were planned"
    return ""
