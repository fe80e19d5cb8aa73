"""The timeline of a trial in time bins: rates asked, sent and answered, requests in flight, latency, errors.

Time zero is the first measured intended send; before it is warm-up. Asked counts intended sends, sent the real ones,
answered the good answers; in flight is the number of requests between their real send and their last byte.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import DynoError
from harness.records import Trial
from harness.report.series.engine_series import engine_series
from harness.store import reader
from harness.store.reader import Run
from harness.units import NS_PER_MS, NS_PER_S

MOST_BINS = 120
WIDTHS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
REQUESTS_PER_BIN, FEWEST_BINS = 5, 20
"""A rate over fewer requests jumps between 0 and twice itself; but a short load is still a line, not a bar."""
MIN_REQUESTS = 5
COLUMNS = ("intended_ns", "sent_ns", "done_ns", "outcome", "is_warmup")
"""What a time line takes of the raw records."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Series over bins of `width_s` seconds; `at_s` are their middles. Latency and lag are NaN where nothing was sent.
    `resources` holds the telemetry's columns over their own times (`resource_s`), `engine` what the server published
    about itself (`engine_s`)."""

    at_s: Floats
    width_s: float
    asked_rps: Floats
    sent_rps: Floats
    answered_rps: Floats
    failed_rps: Floats
    in_flight: Floats
    lag_max_ms: Floats
    latency_p50_ms: Floats
    latency_max_ms: Floats
    warmup_s: float
    resource_s: Floats = field(default_factory=lambda: np.array([]))
    resources: dict[str, Floats] = field(default_factory=dict)
    engine_s: Floats = field(default_factory=lambda: np.array([]))
    engine: dict[str, Floats] = field(default_factory=dict)


def timeline(run: Run, trial: Trial) -> Timeline | None:
    """The time line of a trial; None when hardly any raw record is left."""
    try:
        table = reader.read_requests(run.root, trial.trial_id, COLUMNS)
    except DynoError:
        return None
    if len(table) < MIN_REQUESTS:
        return None
    measured = table[~table["is_warmup"]]
    zero = int((measured if len(measured) else table)["intended_ns"].min())
    times = {name: (table[f"{name}_ns"].to_numpy() - zero) / NS_PER_S for name in ("intended", "sent", "done")}
    begin, end = float(times["intended"].min()), float(times["done"].max())
    bins = min(MOST_BINS, max(FEWEST_BINS, len(table) / REQUESTS_PER_BIN))
    width = next((w for w in WIDTHS_S if (end - begin) / w <= bins), WIDTHS_S[-1])
    edges = np.arange(np.floor(begin / width), np.ceil(end / width) + 1) * width
    is_ok = table["outcome"].to_numpy() == "ok"
    latency = (times["done"] - times["intended"]) * NS_PER_S / NS_PER_MS
    lag = (times["sent"] - times["intended"]) * NS_PER_S / NS_PER_MS
    middles = (edges[:-1] + edges[1:]) / 2
    resource_s, resources = _telemetry(run, trial, zero)
    engine_s, engine = engine_series(run, trial, zero)
    return Timeline(
        at_s=middles,
        width_s=width,
        asked_rps=np.histogram(times["intended"], edges)[0] / width,
        sent_rps=np.histogram(times["sent"], edges)[0] / width,
        answered_rps=np.histogram(times["done"][is_ok], edges)[0] / width,
        failed_rps=np.histogram(times["done"][~is_ok], edges)[0] / width,
        in_flight=_before(times["sent"], middles) - _before(times["done"], middles),
        lag_max_ms=_by_bin(times["intended"], lag, edges, np.max),
        latency_p50_ms=_by_bin(times["intended"][is_ok], latency[is_ok], edges, np.median),
        latency_max_ms=_by_bin(times["intended"][is_ok], latency[is_ok], edges, np.max),
        warmup_s=min(begin, 0.0),
        resource_s=resource_s,
        resources=resources,
        engine_s=engine_s,
        engine=engine,
    )


def _before(events: Floats, at: Floats) -> Floats:
    """How many events had happened at each time."""
    return np.searchsorted(np.sort(events), at).astype(np.float64)


def _by_bin(at: Floats, values: Floats, edges: Floats, reduce: Any) -> Floats:
    """`reduce` of the values of each bin, NaN for an empty one."""
    order = np.argsort(at, kind="stable")
    cuts = np.searchsorted(at[order], edges)
    parts = [values[order][a:b] for a, b in itertools.pairwise(cuts)]
    return np.array([reduce(part) if len(part) else np.nan for part in parts])


def _telemetry(run: Run, trial: Trial, zero_ns: int) -> tuple[Floats, dict[str, Floats]]:
    """The stored telemetry's columns that hold a number, thinned to a few points per pixel; none where damaged."""
    try:
        table = reader.read_telemetry(run.root, trial.trial_id)
    except DynoError:
        table = None
    if table is None or not len(table):
        return np.array([]), {}
    table = table.iloc[:: max(1, len(table) // (2 * MOST_BINS))]
    columns = {
        str(name): table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in table.columns if name != "t_ns"
    }
    seconds = (table["t_ns"].to_numpy(dtype=np.float64) - zero_ns) / NS_PER_S
    return seconds, {name: values for name, values in columns.items() if np.isfinite(values).any()}
