"""CloudWatch metrics that AWS measured for one SageMaker endpoint while it was under load."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engines.errors import EngineError
from engines.sagemaker.aws import Aws, NotFound
from engines.sagemaker.plan import VARIANT

logger = logging.getLogger("dyno.sagemaker")

PERIOD_S = 60
POLL_S = 10.0
US_PER_MS = 1000.0

_REQUESTS = "AWS/SageMaker"
_INSTANCES = "/aws/sagemaker/Endpoints"
WANTED: tuple[tuple[str, str, str, str], ...] = (
    *((_REQUESTS, name, "Sum", "count") for name in (
        "Invocations", "Invocation4XXErrors", "Invocation5XXErrors", "InvocationModelErrors")),
    *((_REQUESTS, name, stat, "ms") for name in ("ModelLatency", "OverheadLatency")
      for stat in ("Average", "p50", "p90", "p99", "Maximum")),
    *((_INSTANCES, name, "Average", "percent of one core or GPU") for name in (
        "CPUUtilization", "GPUUtilization")),
    *((_INSTANCES, name, "Average", "percent") for name in ("MemoryUtilization", "GPUMemoryUtilization",
                                                            "DiskUtilization")),
)  # fmt: skip
"""Namespace, metric, statistic, unit as kept here (CloudWatch gives latencies in microseconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One metric: its value over each period, oldest first."""

    name: str
    statistic: str
    unit: str
    values: tuple[float, ...]

    @property
    def total(self) -> float:
        """One number for the whole time; a percentile's is its worst period, since percentiles cannot be averaged."""
        if self.statistic == "Sum":
            return sum(self.values)
        return sum(self.values) / len(self.values) if self.statistic == "Average" else max(self.values)


def read_metrics(aws: Aws, endpoint: str, begin_s: float, end_s: float) -> tuple[Reading, ...]:
    """Every metric that has a point between the two UTC times, widened to whole periods."""
    start = datetime.fromtimestamp(begin_s // PERIOD_S * PERIOD_S, UTC)
    end = datetime.fromtimestamp((end_s // PERIOD_S + 1) * PERIOD_S, UTC)
    dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": VARIANT}]
    queries = [
        {
            "Id": f"m{index}",
            "MetricStat": {
                "Metric": {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions},
                "Period": PERIOD_S,
                "Stat": statistic,
            },
        }
        for index, (namespace, name, statistic, _) in enumerate(WANTED)
    ]
    answer = aws.call(
        "cloudwatch",
        "get_metric_data",
        {"MetricDataQueries": queries, "StartTime": start, "EndTime": end, "ScanBy": "TimestampAscending"},
    )
    return tuple(reading for row in answer["MetricDataResults"] if (reading := _reading(row)) is not None)


def wait_for_metrics(
    aws: Aws, endpoint: str, window_s: tuple[float, float], invocations: int, patience_s: float
) -> tuple[Reading, ...] | str:
    """The metrics once CloudWatch has seen all `invocations` (it lags by a minute or more), else what there is after
    `patience_s`; a sentence when they cannot be read. Works on an endpoint that has been deleted."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            readings = read_metrics(aws, endpoint, *window_s)
        except (EngineError, NotFound) as error:
            return f"unavailable: {error}"
        seen = sum(reading.total for reading in readings if reading.name == "Invocations")
        if seen >= invocations:
            return readings
        if time.monotonic() >= deadline:
            logger.info("CloudWatch shows %.0f of %d invocations after %.0f s", seen, invocations, patience_s)
            return readings or f"unavailable: CloudWatch had no metrics after {patience_s:g} s"
        aws.sleep(min(POLL_S, max(patience_s, 1.0) / 10))


def summary(readings: tuple[Reading, ...] | str) -> str:
    """One line for a trial's notes."""
    if isinstance(readings, str):
        return f"CloudWatch: {readings}"
    by_name = {(reading.name, reading.statistic): reading for reading in readings}
    parts = []
    for name in ("ModelLatency", "OverheadLatency"):
        stats = [f"{s} {by_name[name, s].total:.1f}" for s in ("p50", "p99") if (name, s) in by_name]
        if stats:
            parts.append(f"{name} {' '.join(stats)} ms")
    for name in ("Invocations", "Invocation4XXErrors", "Invocation5XXErrors", "InvocationModelErrors"):
        if (name, "Sum") in by_name:
            parts.append(f"{name} {by_name[name, 'Sum'].total:.0f}")
    return f"CloudWatch: {', '.join(parts) or 'no values'}"


def _reading(row: dict[str, Any]) -> Reading | None:
    _, name, statistic, unit = WANTED[int(row["Id"].removeprefix("m"))]
    values = [float(value) / (US_PER_MS if unit == "ms" else 1.0) for value in row["Values"]]
    return Reading(name=name, statistic=statistic, unit=unit, values=tuple(values)) if values else None
