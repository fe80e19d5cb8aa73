"""The kinds of load in a scenario (`workload.load`): a closed loop, and open loops with a fixed schedule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from harness.level import Level
from harness.measure.metrics import METRICS, metric_row
from harness.scenario.fields import (
    AtLeastOne,
    Fraction,
    PositiveSeconds,
    Strict,
    Word,
    did_you_mean,
    expected,
    listed,
)
from harness.scenario.levels import MAX_RPS, Levels, Rate, RateLevels, UserLevels, no_endless_rate

Arrivals = Literal["constant", "poisson"]
RateFromZero = Annotated[
    float, BeforeValidator(no_endless_rate), Field(ge=0.0, le=MAX_RPS, description="requests per second")
]
MaxInFlight = Annotated[AtLeastOne, Field(description="outstanding requests at most; reaching it is reported")]
Processes = Annotated[AtLeastOne | None, Field(description="load processes; null: as many as the rate needs")]
PositiveMs = Annotated[float, Field(gt=0.0)]

DEFAULT_MAX_IN_FLIGHT = 1000
"""Outstanding requests of an open loop: far beyond what an engine under test serves in time, far below the ports and
descriptors of one machine."""


class ClosedLoad(Levels):
    """Closed loop: each of `users` sends its next request `think_time_s` after its last answer."""

    kind: Literal["closed"] = "closed"
    users: UserLevels = 8
    think_time_s: Annotated[float, Field(ge=0.0)] = 0.0
    processes: Processes = None

    @property
    def levels(self) -> tuple[Level, ...]:
        return () if isinstance(self.users, int) else tuple(Level("users", users) for users in self.users)

    @property
    def most_users(self) -> int:
        """Users at a time, of a sweep at its last level."""
        return self.users if isinstance(self.users, int) else self.users[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePart:
    """A part of a rate's course: linear from `from_rps` to `to_rps` (requests/s) within `duration_s`."""

    duration_s: float
    from_rps: float
    to_rps: float

    @property
    def requests(self) -> float:
        """How many requests it holds on average."""
        return (self.from_rps + self.to_rps) / 2 * self.duration_s


Gaps = tuple[Literal["equal", "exponential", "gamma"], float]
"""The distribution of the gaps between requests, and its coefficient of variation."""


class Open(Levels):
    """What every open loop has: requests leave on a schedule, whatever is outstanding.

    `requests` and `max_duration_s` are the workload's: after how many requests and how many seconds a trial stops.
    """

    kind: str
    max_in_flight: MaxInFlight = DEFAULT_MAX_IN_FLIGHT
    processes: Processes = None

    def course(self, max_duration_s: float) -> tuple[RatePart, ...]:
        """The rate over time, `max_duration_s` of it."""
        raise NotImplementedError

    def gaps(self) -> Gaps:
        """How requests are spread around their rate."""
        return _GAPS[getattr(self, "arrivals", "poisson")]

    @property
    def is_counted(self) -> bool:
        """Whether the workload's number of requests can end it; else its course alone does."""
        return False

    def seconds(self, requests: int, max_duration_s: float) -> float:
        """How long one trial takes, at most."""
        course = self.course(max_duration_s)
        total_s, expected = sum(part.duration_s for part in course), sum(part.requests for part in course)
        return min(total_s, total_s * requests / expected) if self.is_counted else total_s

    def count(self, requests: int, max_duration_s: float) -> int | None:
        """Requests of one trial, about; None where that is not known before a file is read."""
        expected = round(sum(part.requests for part in self.course(max_duration_s)))
        return min(requests, expected) if self.is_counted else expected

    def text(self, max_duration_s: float, seconds: float) -> str:
        """Its course in words, such as 'poisson, 40 requests/s for 3 s'."""
        raise NotImplementedError


_GAPS: dict[str, Gaps] = {"constant": ("equal", 0.0), "poisson": ("exponential", 1.0)}


class _Flat(Open):
    """One rate all the time; of a sweep, the largest of its rates where it is asked as a whole."""

    rate_rps: RateLevels

    @property
    def levels(self) -> tuple[Level, ...]:
        return () if isinstance(self.rate_rps, float) else tuple(Level("rate_rps", rate) for rate in self.rate_rps)

    @property
    def most_rps(self) -> float:
        """Requests per second, of a sweep at its last level."""
        return self.rate_rps if isinstance(self.rate_rps, float) else self.rate_rps[-1]

    @property
    def is_counted(self) -> bool:
        return True

    def course(self, max_duration_s: float) -> tuple[RatePart, ...]:
        return (RatePart(duration_s=max_duration_s, from_rps=self.most_rps, to_rps=self.most_rps),)

    def text(self, max_duration_s: float, seconds: float) -> str:
        return f"{self.kind}, {self.most_rps:g} requests/s for {seconds:.3g} s"


class ConstantLoad(_Flat):
    """Open loop, equal gaps."""

    kind: Literal["constant"]

    def gaps(self) -> Gaps:
        return _GAPS["constant"]


class PoissonLoad(_Flat):
    """Open loop, independent arrivals: exponential gaps."""

    kind: Literal["poisson"]


class GammaLoad(_Flat):
    """Open loop, bursty (cv > 1) or smoother than Poisson (cv < 1): gamma gaps of coefficient of variation `cv`."""

    kind: Literal["gamma"]
    cv: Annotated[float, Field(gt=0.0, le=20.0, description="standard deviation of a gap over its mean")]

    def gaps(self) -> Gaps:
        return "gamma", self.cv

    def text(self, max_duration_s: float, seconds: float) -> str:
        return f"{super().text(max_duration_s, seconds)}, gaps with a coefficient of variation of {self.cv:g}"


class RampLoad(Open):
    """Open loop, the rate goes linearly from one value to the other over workload.max_duration_s."""

    kind: Literal["ramp"]
    from_rps: RateFromZero
    to_rps: RateFromZero
    arrivals: Arrivals = "poisson"

    @model_validator(mode="after")
    def _has_a_rate(self) -> RampLoad:
        if self.from_rps == self.to_rps == 0:
            raise expected("a rate above 0 at one end of the ramp", "0 at both")
        return self

    def course(self, max_duration_s: float) -> tuple[RatePart, ...]:
        return (RatePart(duration_s=max_duration_s, from_rps=self.from_rps, to_rps=self.to_rps),)

    def text(self, max_duration_s: float, seconds: float) -> str:
        return f"ramp ({self.arrivals}), {self.from_rps:g} to {self.to_rps:g} requests/s over {max_duration_s:g} s"


class Stage(Strict):
    """One flat part of a staged load; a rate of 0 is a pause."""

    rate_rps: RateFromZero
    duration_s: PositiveSeconds


class StagesLoad(Open):
    """Open loop, flat stages one after the other."""

    kind: Literal["stages"]
    stages: Annotated[tuple[Stage, ...], BeforeValidator(listed), Field(min_length=1)]
    arrivals: Arrivals = "poisson"

    @property
    def total_s(self) -> float:
        """How long all stages take."""
        return sum(stage.duration_s for stage in self.stages)

    @model_validator(mode="after")
    def _has_a_rate(self) -> StagesLoad:
        if not any(stage.rate_rps for stage in self.stages):
            raise expected("a stage with a rate above 0", "0 in every stage")
        return self

    def course(self, max_duration_s: float) -> tuple[RatePart, ...]:
        return tuple(
            RatePart(duration_s=each.duration_s, from_rps=each.rate_rps, to_rps=each.rate_rps) for each in self.stages
        )

    def text(self, max_duration_s: float, seconds: float) -> str:
        rates = ", ".join(f"{stage.rate_rps:g}/s for {stage.duration_s:g} s" for stage in self.stages)
        return f"stages ({self.arrivals}), {rates}"


class TraceLoad(Open):
    """Open loop, the times (and, where it has them, lengths) of a recorded trace."""

    kind: Literal["trace"]
    path: Annotated[Word, Field(description="JSONL, CSV or Parquet file, relative to the scenario")]
    speed: Annotated[float, Field(gt=0.0, description="2 replays it twice as fast")] = 1.0
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns"] | None,
        Field(description="of its times; null: by the column's name or the format's columns"),
    ] = None
    block_tokens: Annotated[AtLeastOne, Field(description="tokens of a block, of a trace with hash_ids")] = 512
    think_time_s: Annotated[
        float,
        Field(ge=0.0, description="from an answer to the next turn of its conversation, of a trace that names them"),
    ] = 0.0

    def seconds(self, requests: int, max_duration_s: float) -> float:
        return max_duration_s

    def count(self, requests: int, max_duration_s: float) -> None:
        return None

    def text(self, max_duration_s: float, seconds: float) -> str:
        return f"trace {self.path} at {self.speed:g} times its speed, {max_duration_s:g} s of it"


class RateBound(Strict):
    """The largest value a metric may take."""

    max: Annotated[float, Field(ge=0.0)]


def _slo_name(name: Any) -> Any:
    row = metric_row(name) if isinstance(name, str) else None
    if row is None or row.source != "load" or row.better != "minimize":
        known = ", ".join(each for each, r in METRICS.items() if r.source == "load" and r.better == "minimize")
        raise expected("a metric of the load that has an upper bound", name, did_you_mean(name, METRICS) or known)
    return name


class MaxRateLoad(Open):
    """The largest rate that meets the SLO: probes of workload.max_duration_s each, bracketing, then bisection.

    The SLO is `slo` (bounds on metrics of a probe), workload.slo (thresholds of a request, met by `good_frac` of all
    requests), or both.
    """

    kind: Literal["max_rate"]
    low_rps: Rate
    high_rps: Rate
    arrivals: Arrivals = "poisson"
    probes: Annotated[AtLeastOne, Field(description="probes at most")] = 12
    precision_frac: Annotated[float, Field(gt=0.0, lt=1.0, description="stop when the bracket is this narrow")] = 0.05
    slo: Annotated[
        dict[Annotated[str, BeforeValidator(_slo_name)], RateBound], Field(description="metric: {max: value}")
    ] = Field(default_factory=dict)
    good_frac: Annotated[Fraction, Field(description="share of requests that must meet workload.slo")] = 0.99
    min_delivered_frac: Annotated[Fraction, Field(description="answers over requests in a probe's second half")] = 0.95

    @model_validator(mode="after")
    def _is_a_range(self) -> MaxRateLoad:
        if self.low_rps >= self.high_rps:
            raise expected(f"high_rps > low_rps ({self.low_rps:g})", self.high_rps)
        return self

    def course(self, max_duration_s: float) -> tuple[RatePart, ...]:
        """Of its first probe."""
        return (RatePart(duration_s=max_duration_s, from_rps=self.low_rps, to_rps=self.low_rps),)


class Template(Strict):
    """A user-defined protocol: a JSON body with {prompt} (and {max_new_tokens}), and where its answer stands."""

    body: Annotated[str, Field(description="JSON text; {prompt} stands inside a string and is escaped")]
    answer: Annotated[Word, Field(description="keys and indexes to the text, such as outputs.0.text")]
    path: Annotated[str, Field(pattern="^/", description="path of the address")] = "/"

    @model_validator(mode="after")
    def _is_json(self) -> Template:
        if "{prompt}" not in self.body:
            raise expected("{prompt} in template.body", self.body, "it stands where the prompt goes")
        try:
            json.loads(self.body.replace("{prompt}", "x").replace("{max_new_tokens}", "1"))
        except (ValueError, RecursionError) as error:
            raise expected("JSON in template.body once {prompt} is filled in", self.body, str(error)) from error
        return self


class Slo(Strict):
    """What one request must meet to count as good; milliseconds, any subset."""

    latency_ms: PositiveMs | None = None
    ttft_ms: PositiveMs | None = None
    tpot_ms: PositiveMs | None = None
    itl_ms: PositiveMs | None = None

    @model_validator(mode="after")
    def _is_not_empty(self) -> Slo:
        if self.thresholds() == {}:
            raise expected("a threshold: latency_ms, ttft_ms, tpot_ms or itl_ms", "none")
        return self

    def thresholds(self) -> dict[str, float]:
        """Name -> milliseconds, of those that were given."""
        return {name: value for name, value in self.model_dump().items() if value is not None}

    @property
    def needs_stream(self) -> bool:
        """Token times exist only in a stream."""
        return any(value is not None for value in (self.ttft_ms, self.tpot_ms, self.itl_ms))


KINDS: dict[str, type[Strict]] = {
    "closed": ClosedLoad,
    "constant": ConstantLoad,
    "poisson": PoissonLoad,
    "gamma": GammaLoad,
    "ramp": RampLoad,
    "stages": StagesLoad,
    "trace": TraceLoad,
    "max_rate": MaxRateLoad,
}


def _kind_of(load: Any) -> str:
    """The kind a load is written with; a load without one is closed, as in the first scenarios."""
    return str(load.get("kind", "closed")) if isinstance(load, dict) else str(getattr(load, "kind", "closed"))


def _known_kind(load: Any) -> Any:
    kind = _kind_of(load)
    if kind not in KINDS:
        raise expected(f"kind: one of {', '.join(KINDS)}", kind, did_you_mean(kind, KINDS))
    return load


Load = Annotated[
    Annotated[
        Annotated[ClosedLoad, Tag("closed")]
        | Annotated[ConstantLoad, Tag("constant")]
        | Annotated[PoissonLoad, Tag("poisson")]
        | Annotated[GammaLoad, Tag("gamma")]
        | Annotated[RampLoad, Tag("ramp")]
        | Annotated[StagesLoad, Tag("stages")]
        | Annotated[TraceLoad, Tag("trace")]
        | Annotated[MaxRateLoad, Tag("max_rate")],
        Discriminator(_kind_of),
    ],
    BeforeValidator(_known_kind),
]
