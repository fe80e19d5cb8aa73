"""The goals of a scenario: objectives and constraints, each perhaps at one level of the load."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from harness.level import Level
from harness.measure.geometric_mean import NAME
from harness.measure.levels import at_level
from harness.measure.metrics import METRICS, metric_row
from harness.scenario.fields import AtLeastOne, Strict, did_you_mean, expected
from harness.scenario.levels import load_name


def _metric_name(name: Any) -> Any:
    """A metric of harness/measure/metrics.py, or exact_match_frac.<task>."""
    if not isinstance(name, str) or metric_row(name) is None:
        raise expected("a metric name", name, did_you_mean(name, METRICS) or f"known: {', '.join(METRICS)}")
    return name


MetricName = Annotated[str, BeforeValidator(_metric_name)]


class At(Strict):
    """A level of the load: exactly one of users and rate_rps, of its sweep, and load, of its list."""

    users: AtLeastOne | None = None
    rate_rps: Annotated[float, Field(gt=0.0)] | None = None
    load: Annotated[Annotated[str, BeforeValidator(load_name)] | None, Field(description="the name of a load")] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> At:
        given = [name for name in ("users", "rate_rps", "load") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise expected("one level of the load: {users: ...}, {rate_rps: ...} or {load: NAME}", got)
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a load that is not there: runs stored before there were lists of loads keep their digest."""
        written: dict[str, Any] = fields(self)
        return {name: value for name, value in written.items() if name != "load" or value is not None}

    @property
    def level(self) -> Level:
        """The level."""
        if self.load is not None:
            return Level("load", name=self.load)
        return Level("users", self.users) if self.users is not None else Level("rate_rps", self.rate_rps or 0.0)


class Goal(Strict):
    """What is asked of a metric, perhaps at one level of the load."""

    at: Annotated[
        At | None, Field(description="the level of the load's sweep, such as {users: 16}, or {load: NAME} of its list")
    ] = None

    @model_serializer(mode="wrap")
    def _as_written(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a level that is not there: runs stored before there were levels keep their digest."""
        written: dict[str, Any] = fields(self)
        return {name: value for name, value in written.items() if name != "at" or value is not None}


class Objective(Goal):
    """A metric and which way is better."""

    metric: MetricName
    goal: Literal["minimize", "maximize"]

    @property
    def name(self) -> str:
        """The metric's name with the level, such as 'latency_p99_ms@users=16'."""
        return named(self.metric, self.at)

    @property
    def judged(self) -> tuple[str, ...]:
        """The names of the metrics that decide it, with their levels."""
        return (self.name,)

    @model_validator(mode="after")
    def _goal_fits(self) -> Objective:
        if self.metric == NAME:
            raise expected(
                "the metrics of the mean", self.metric, "write geometric_mean: [{metric: ..., goal: ...}, ...]"
            )
        row = metric_row(self.metric)
        if row is not None and row.better != self.goal:
            raise expected(f"goal: {row.better} for {self.metric}", self.goal)
        return self


class Bound(Goal):
    """A metric's allowed range, ends included, in the metric's own unit."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, raw: Any) -> Any:
        if isinstance(raw, int | float | list) or raw is None:
            raise expected("{max: ...} or {min: ...}", raw)
        return raw

    @model_validator(mode="after")
    def _is_a_range(self) -> Bound:
        if self.min is None and self.max is None:
            raise expected("min, max or both", "neither", "write {max: 500}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise expected(f"min <= max ({self.max})", self.min)
        return self


def named(metric: str, at: At | None) -> str:
    """A metric's name with the level that its goal is meant for, if any."""
    return metric if at is None else at_level(metric, at.level)


def levels_text(levels: Iterable[Level]) -> tuple[str, ...]:
    """'users=1', 'users=16' ..."""
    return tuple(map(str, levels))


def limit_name(name: Any) -> Any:
    """What a constraint may be written for: a metric, or `quality`."""
    return name if name == "quality" else _metric_name(name)


def _limit_kind(limit: Any) -> str:
    return "verdict" if isinstance(limit, str) else "bound"


def limits_fit(limits: dict[str, Any]) -> dict[str, Any]:
    """Refuses a range for the verdict, and a word for a metric."""
    for name, limit in limits.items():
        if name == "quality" and isinstance(limit, Bound):
            raise expected(
                "quality: Normal or any", "a range", "bound a score instead, such as exact_match_frac: {min: 0.95}"
            )
        if name != "quality" and not isinstance(limit, Bound):
            raise expected(f"{name}: {{max: ...}} or {{min: ...}}", limit)
    return limits


Limit = Annotated[
    Annotated[Bound, Tag("bound")] | Annotated[Literal["Normal", "any"], Tag("verdict")], Discriminator(_limit_kind)
]
