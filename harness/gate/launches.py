"""Single launches of a candidate as the gate sees them: a metric's value, its n and its sampling error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.level import Level
from harness.measure.levels import level_in, without_level
from harness.measure.metrics import metric_of, metric_row
from harness.measure.statistics.distributions import Z_95
from harness.measure.statistics.estimators import design_effect, smallest_n
from harness.records import Metric, Trial
from harness.scenario.load_list import OF_ONE_LOAD, is_of_a_window
from harness.store.layout import RunLayout
from harness.store.requests_table import whole
from harness.units import NS_PER_MS

Scale = Literal["log", "linear"]

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
RAW_COLUMNS = ("intended_ns", "done_ns", "first_token_ns", "outcome", "is_warmup", "user")
"""What the gate reads of the raw records; an exported baseline holds no more than these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One metric of one launch. `sampling` is the standard error of the value within the launch, on the analysis
    scale; None where it cannot be known from what is stored. `level` is the level of a sweep, or load of a
    list, that the value is of."""

    trial_id: str
    value: float
    n: int
    sampling: float | None
    level: Level | None = None


def scale_of(name: str) -> Scale:
    """Shares are compared by difference, everything else by ratio."""
    row = metric_row(name)
    return "linear" if row is None or row.unit == "frac" else "log"


def quantile_of(name: str) -> float | None:
    """0.99 of 'latency_p99_ms'; None of a metric that is no percentile of request times."""
    parts = without_level(name).split("_")
    return _QUANTILES.get(parts[1]) if len(parts) == 3 and parts[0] in ("latency", "ttft") else None


def needed_samples(name: str) -> int:
    """Requests below which the metric means nothing: for percentiles, where its own 95 % interval begins to exist."""
    q = quantile_of(name)
    return 1 if q is None else smallest_n(q)


def launches(root: Path, trials: Sequence[Trial], name: str) -> tuple[Launch, ...]:
    """The launches of one candidate that have the metric, in order."""
    found = []
    for trial in trials:
        metric = metric_of(trial, name)
        if metric is not None and math.isfinite(metric.value):
            found.append(_launch(root, trial, name, metric))
    return tuple(found)


def _launch(root: Path, trial: Trial, name: str, metric: Metric) -> Launch:
    q, level = quantile_of(name), _level_of(trial, name)
    samples = None if q is None else raw_samples(root, _records_of(trial, name), name)
    if q is None or samples is None:
        return Launch(
            trial_id=trial.trial_id, value=metric.value, n=metric.n, sampling=_stored_error(metric, name), level=level
        )
    times_ms, users = samples
    return Launch(
        trial_id=trial.trial_id,
        value=float(np.quantile(times_ms, q)),
        n=len(times_ms),
        sampling=_quantile_error(times_ms, q, users),
        level=level,
    )


def _level_of(trial: Trial, name: str) -> Level | None:
    """The level of a sweep, or load of a list, that a metric is of: the one in its name, else the one that the trial
    was judged by; of what a list has once, such as its answers' quality, none."""
    own = next((probe for probe in trial.probes if probe.is_own), None)
    if (level := level_in(name)) is not None or own is None:
        return level
    if own.load:
        return own.level if is_of_a_window(name) or name.startswith(OF_ONE_LOAD) else None
    return own.level if metric_of(trial, "load_level") is not None else None


def _records_of(trial: Trial, name: str) -> str:
    """The name of the raw records that a metric was made from: of a level of a sweep, that level's."""
    level = level_in(name)
    probe = next((one for one in trial.probes if one.level == level and not one.is_own), None)
    return trial.trial_id if probe is None else f"{trial.trial_id}.probe{probe.number}"


def raw_samples(root: Path, trial_id: str, name: str) -> tuple[np.ndarray[Any, Any], int] | None:
    """(milliseconds in time order, number of users) of the measured requests; None when no raw records are stored.

    As harness/measure/summarize.py counts: answered requests and timed-out ones, from the intended send.
    """
    path = RunLayout(root).requests(trial_id)
    if not path.is_file():
        return None
    import pyarrow.parquet as pq

    with whole(path):
        table = pq.read_table(path, columns=list(RAW_COLUMNS))
    columns = {key: np.array(column) for key, column in table.to_pydict().items()}
    is_first = name.startswith("ttft")
    is_measured = ~columns["is_warmup"].astype(bool)
    counted = ("ok",) if is_first else ("ok", "timed_out")
    is_counted = is_measured & np.isin(columns["outcome"], counted)
    if is_first:
        is_counted &= np.array([value is not None for value in columns["first_token_ns"]])
    if not is_counted.any():
        return None
    intended = columns["intended_ns"][is_counted].astype(np.int64)
    ends = columns["first_token_ns" if is_first else "done_ns"][is_counted].astype(np.int64)
    order = np.argsort(intended, kind="stable")
    users = len(set(columns["user"][is_measured].tolist()))
    return (ends - intended)[order] / NS_PER_MS, users


def _quantile_error(times_ms: np.ndarray[Any, Any], q: float, users: int) -> float | None:
    """Standard error of the log of a quantile: half the log distance of the quantiles one binomial standard deviation
    away (Woodruff 1952), with the design effect of neighbours that share a batch. None where the upper one would be
    beyond the largest sample."""
    worth = len(times_ms) / design_effect(times_ms, q, users)
    step = math.sqrt(q * (1 - q) / worth)
    if q + step > 1 or q - step < 0:
        return None
    low, high = np.quantile(times_ms, [q - step, q + step])
    return float(np.log(high / low) / 2) if low > 0 else None


def _stored_error(metric: Metric, name: str) -> float | None:
    """From the stored 95 % interval, taken as normal."""
    if metric.low is None or metric.high is None:
        return None
    if scale_of(name) == "linear":
        return (metric.high - metric.low) / (2 * Z_95)
    return math.log(metric.high / metric.low) / (2 * Z_95) if metric.low > 0 else None
