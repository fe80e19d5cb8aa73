"""Latency curves for a report: exact quantiles of raw latencies on a fixed grid, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.errors import DynoError
from harness.measure.statistics.estimators import percentile
from harness.records import Candidate, Metric, Trial
from harness.store.reader import Run, read_requests
from harness.units import NS_PER_MS
from harness.wording import label

GRID_POINTS = 240
"""Quantile levels kept of each distribution: each point is exact, the line between two of them is not."""
COLUMNS = ("intended_ns", "done_ns", "outcome", "is_warmup", "user")
"""What a distribution takes of the raw records."""
TAIL_LEVELS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The latencies (ns, in the order of their intended sends) of one candidate, repetitions joined."""

    candidate: Candidate
    trials: tuple[Trial, ...]
    latency_ns: npt.NDArray[np.float64]
    users: int

    @property
    def name(self) -> str:
        """The candidate in words."""
        return label(self.candidate)

    def grid(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(levels, latency in ms): type-7 quantiles at evenly spaced levels, at most GRID_POINTS."""
        levels = np.linspace(0.0, 1.0, min(GRID_POINTS, max(2, len(self.latency_ns))))
        return levels, np.quantile(self.latency_ns, levels) / NS_PER_MS

    def tail(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(levels, latency in ms) from the median to the last sample, evenly spaced in log(1 / (1 - level))."""
        n = len(self.latency_ns)
        ends = np.log10(2.0), np.log10(max(float(n), 4.0))
        levels = 1 - 10.0 ** -np.linspace(*ends, min(GRID_POINTS, max(8, n)))
        return levels, np.quantile(self.latency_ns, levels) / NS_PER_MS

    def bounds(self) -> list[tuple[float, Metric]]:
        """(level, percentile with its 95 % interval) at TAIL_LEVELS, as far as the samples bound them on both sides."""
        values: Sequence[float] = self.latency_ns  # type: ignore[assignment]  # an array is one, a list of it 32 MB
        found = [(level, percentile(values, level, block=self.users)) for level in TAIL_LEVELS]
        return [(level, metric) for level, metric in found if metric.low is not None and metric.high is not None]


def samples_of(run: Run, trials: Sequence[Trial]) -> tuple[Samples | None, tuple[str, ...]]:
    """(the measured, answered requests of one candidate's trials, None when no raw record is left; the trials whose raw
    records are missing or damaged). Timed-out requests count with the time they waited."""
    parts, users, lost = [], 1, []
    for trial in trials:
        try:
            table = read_requests(run.root, trial.trial_id, COLUMNS)
        except DynoError:
            lost.append(trial.trial_id)
            continue
        kept = table[(~table["is_warmup"]) & table["outcome"].isin(["ok", "timed_out"])].sort_values("intended_ns")
        if len(kept):
            parts.append((kept["done_ns"] - kept["intended_ns"]).to_numpy(dtype=np.float64))
            users = max(users, int(kept["user"].nunique()))
    if not parts:
        return None, tuple(lost)
    latency_ns = np.concatenate(parts)
    return Samples(candidate=trials[0].candidate, trials=tuple(trials), latency_ns=latency_ns, users=users), tuple(lost)


def lost_sentence(lost: Sequence[str]) -> str:
    """A figure's note on trials that it lacks; '' when it lacks none."""
    if not lost:
        return ""
    named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return f"Left out: {named}, whose raw records are missing or damaged."
