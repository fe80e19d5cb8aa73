"""The numbers that a server published during a trial, as series to draw: gauges as they are, counters as rates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.errors import DynoError
from harness.records import Trial
from harness.store import reader
from harness.store.reader import Run
from harness.units import NS_PER_S

Floats = npt.NDArray[np.float64]
GAUGES = ("running", "waiting", "kv_frac")
SHARES = (("prefix_hit_frac", "prefix_hits", "prefix_queries"), ("accepted_frac", "accepted", "drafted"))
RATES = (("preemptions_per_s", "preemptions"), ("refused_per_s", "refused"))


def engine_series(run: Run, trial: Trial, zero_ns: int) -> tuple[Floats, dict[str, Floats]]:
    """Seconds from `zero_ns`, and what there is of `running`, `waiting`, `kv_frac`, `batch_size`, `preemptions_per_s`,
    `refused_per_s`, `prefix_hit_frac` and `accepted_frac`; nothing where nothing was published, or it is damaged.

    What comes of counters is that since the scrape before, NaN where nothing was counted."""
    try:
        table = reader.read_engine_metrics(run.root, trial.trial_id)
    except DynoError:
        table = None
    if table is None or len(table) < 2:
        return np.array([]), {}
    columns = {str(name): table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in table.columns}
    at_s = (columns["t_ns"] - zero_ns) / NS_PER_S
    found: dict[str, Floats] = {name: columns[name] for name in GAUGES if name in columns}
    found |= _batch_size(columns)
    for name, counter in RATES:
        if counter in columns:
            found[name] = _grown(columns[counter]) / np.diff(at_s, prepend=np.nan)
    for name, part, whole in SHARES:
        if part in columns and whole in columns:
            found[name] = _ratio(columns[part], columns[whole])
    return at_s, {name: values for name, values in found.items() if np.isfinite(values).any()}


def _batch_size(columns: dict[str, Floats]) -> dict[str, Floats]:
    if "batch_sum" in columns and "batch_count" in columns:
        return {"batch_size": _ratio(columns["batch_sum"], columns["batch_count"])}
    return {"batch_size": columns["batch_size"]} if "batch_size" in columns else {}


def _ratio(part: Floats, whole: Floats) -> Floats:
    counted = _grown(whole)
    return np.divide(_grown(part), counted, out=np.full_like(counted, np.nan), where=counted > 0)


def _grown(counter: Floats) -> Floats:
    """By how much since the value before; one that fell has begun again."""
    grown = np.diff(counter, prepend=np.nan)
    return np.where(grown < 0, counter, grown)
