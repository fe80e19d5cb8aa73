"""Calibration of machines: how fast each of one class runs the same candidate, and which differ from their class.

A machine's ratio is its slowness against the median of the machines: the geometric mean of its launches over theirs.
The interval is Student's t, with the spread between launches pooled over all machines.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from harness.measure.metrics import metric_of, metric_row
from harness.measure.statistics.distributions import t_quantile
from harness.records import Trial

LIMIT_FRAC = 0.05
"""A machine whose ratio to its class surely lies beyond this is set aside. Within it a factor of the machine decides no
choice, since finalists are compared on one machine (simulated: results/published/bench-machines)."""
LAUNCHES = (3, 6, 12)
"""Launches after which a machine is judged; further ones only while that is not clear."""
LEVEL = 0.95
TAILS = ("latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "latency_p999_ms", "latency_max_ms", "ttft_p90_ms",
         "ttft_p99_ms", "lag_p99_ms")  # fmt: skip

Standing = Literal["within", "unclear", "differs"]
"""'within': its ratio is inside LIMIT_FRAC; 'differs': the interval is outside; 'unclear': the ratio is outside, its
interval reaches inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One launch of the calibration candidate. `round` counts the calibrations of its machine from 1, `after_trials`
    the trials of the run that had ended by then, `metric` is what was compared."""

    round: int
    after_trials: int
    metric: str
    trial: Trial

    @property
    def log_slowness(self) -> float | None:
        """The logarithm of the metric, turned so that more is slower; None where there is no number."""
        metric = metric_of(self.trial, self.metric) if self.trial.outcome == "ok" else None
        if metric is None or not 0 < metric.value < math.inf:
            return None
        return math.log(metric.value) * (-1 if is_rate(metric.unit) else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How slow a machine is against its class, 1.04: 4 % slower, with its 95 % interval over `launches`. Of two
    machines each one's is against the other. So many `machines` were compared, with `freedom` degrees of freedom of
    the interval; both are 0 in runs stored before they were kept."""

    value: float
    low: float
    high: float
    launches: int
    machines: int = 0
    freedom: int = 0

    @property
    def standing(self) -> Standing:
        """Where it is seen from LIMIT_FRAC."""
        edge = 1 + LIMIT_FRAC
        if 1 / edge <= self.value <= edge:
            return "within"
        return "differs" if self.low > edge or self.high < 1 / edge else "unclear"

    @property
    def text(self) -> str:
        """'1.02 [0.99, 1.05], 3 launches'."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], {self.launches} launches"


RankedAs = Literal["ranked", "set_aside", "one_of_two"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOfRun:
    """A machine that took part in a run. `ranked`: whether its trials count; 'set_aside' where it differs from its
    class, 'one_of_two' where it is one of two that differ and the finalists ran on the other. `why` is the sentence for
    people, `ratio` None where there was nothing to compare it with."""

    machine_id: str
    machine_class: str
    ratio: Ratio | None = None
    rounds: int = 0
    ranked: RankedAs = "ranked"
    why: str = ""


def ratios(launches: Mapping[str, Sequence[float]]) -> dict[str, Ratio]:
    """Machine -> its ratio, from the logarithms of its launches (Calibration.log_slowness); machines with fewer than
    two are left out, and there is none of a single machine.

    The median of k machines varies at most like pi / (2 k) of one machine's mean.
    """
    known = {name: values for name, values in launches.items() if len(values) > 1}
    if len(known) < 2:
        return {}
    means = {name: fmean(values) for name, values in known.items()}
    freedom = sum(len(values) - 1 for values in known.values())
    squares = sum((value - means[name]) ** 2 for name, values in known.items() for value in values)
    t = t_quantile(0.5 + LEVEL / 2, freedom)
    one_in = fmean(1 / len(values) for values in known.values())
    found = {}
    for name, values in known.items():
        others = [mean for other, mean in means.items() if other != name]
        middle = others[0] if len(known) == 2 else median(means.values())
        apart = one_in if len(known) == 2 else one_in * math.pi / (2 * len(known))
        off = means[name] - middle
        half = t * math.sqrt(squares / freedom * (1 / len(values) + apart))
        found[name] = Ratio(
            value=math.exp(off), low=math.exp(off - half), high=math.exp(off + half), launches=len(values),
            machines=len(known), freedom=freedom,
        )  # fmt: skip
    return found


def share(found: Collection[Ratio]) -> float:
    """How much of what machines differ by is more than launches of equal ones show, from 0 to 1: the power of ratios by
    which values are scaled, shrunk towards 1 as James and Stein shrink means."""
    apart = sum(math.log(each.value) ** 2 for each in found)
    if not apart:
        return 0.0
    freedom = sum(each.launches - 1 for each in found)
    t = (t_quantile(0.5 + LEVEL / 2, each.freedom or freedom) for each in found)
    by_chance = sum((math.log(each.high / each.low) / (2 * its)) ** 2 for each, its in zip(found, t, strict=True))
    return max(0.0, 1 - by_chance / apart)


def is_rate(unit: str) -> bool:
    """Whether more of it is faster."""
    return unit.endswith("/s")


def compared_metric(objectives: Iterable[str]) -> str:
    """The metric by which machines are compared: the first objective that is a time or a rate, but for tails, which
    differ between two launches on one machine by more than machines do; else the median latency."""
    for name in objectives:
        row = metric_row(name)
        if row is not None and (row.unit == "ms" or is_rate(row.unit)) and row.name not in TAILS:
            return name
    return "latency_p50_ms"
