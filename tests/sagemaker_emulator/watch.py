"""CloudWatch's part: what the runtime recorded, as metric data with true percentiles."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_COUNTS = {"Invocations": 0, "Invocation4XXErrors": 400, "Invocation5XXErrors": 500, "InvocationModelErrors": -1}


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call as CloudWatch counts it. Latencies in microseconds."""

    endpoint: str
    at_s: float
    model_us: float
    overhead_us: float
    status: int
    is_model_error: bool


@dataclass(slots=True)
class Watch:
    """Every invocation of a region; `delay_s` is how long CloudWatch takes to show one."""

    delay_s: float = 0.0
    invocations: list[Invocation] = field(default_factory=list)

    def get_metric_data(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to GetMetricData."""
        return {"MetricDataResults": [self._result(query, request) for query in request["MetricDataQueries"]]}

    def _result(self, query: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        stat = query["MetricStat"]
        period_s = stat["Period"]
        wanted = {each["Name"]: each["Value"] for each in stat["Metric"]["Dimensions"]}["EndpointName"]
        shown_until = time.time() - self.delay_s
        buckets: dict[float, list[float]] = {}
        for each in self.invocations:
            inside = request["StartTime"].timestamp() <= each.at_s < request["EndTime"].timestamp()
            if each.endpoint != wanted or not inside or each.at_s > shown_until:
                continue
            value = _value(stat["Metric"]["MetricName"], each)
            if value is not None:
                buckets.setdefault(each.at_s // period_s * period_s, []).append(value)
        return {
            "Id": query["Id"],
            "Label": stat["Metric"]["MetricName"],
            "Timestamps": [datetime.fromtimestamp(at, UTC) for at in sorted(buckets)],
            "Values": [_statistic(stat["Stat"], buckets[at]) for at in sorted(buckets)],
            "StatusCode": "Complete",
        }


def _value(metric: str, each: Invocation) -> float | None:
    if metric == "ModelLatency":
        return each.model_us
    if metric == "OverheadLatency":
        return each.overhead_us
    if metric == "InvocationModelErrors":
        return float(each.is_model_error)
    if metric in _COUNTS:
        low = _COUNTS[metric]
        return float(low == 0 or low <= each.status < low + 100)
    return None


def _statistic(name: str, values: list[float]) -> float:
    if name == "Sum":
        return sum(values)
    if name == "Average":
        return sum(values) / len(values)
    if name == "Maximum":
        return max(values)
    rank = max(1, math.ceil(float(name.removeprefix("p")) / 100 * len(values)))
    return sorted(values)[rank - 1]
