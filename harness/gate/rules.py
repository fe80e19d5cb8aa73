"""The gate's rules: budgets per metric, confidence levels and what to compare, with their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from harness.measure.metric_def import MetricDef
from harness.measure.metrics import METRICS, metric_row
from harness.scenario.fields import Fraction, Strict, did_you_mean, expected

Positive = Annotated[float, Field(gt=0.0)]
AtLeastZero = Annotated[float, Field(ge=0.0)]
Level = Annotated[float, Field(gt=0.0, lt=0.5)]


def _metric_name(name: Any) -> Any:
    if not isinstance(name, str) or metric_row(name) is None:
        raise expected("a metric name", name, did_you_mean(name, METRICS) or f"known: {', '.join(METRICS)}")
    return name


class Budget(Strict):
    """How much worse a metric may become. Where a relative and an absolute budget are given, the larger one counts:
    5 % of 1 ms is no reason to block a change.

    `max_increase*` for metrics where smaller is better, `max_decrease*` where larger is; `ignore: true` takes a metric
    of the defaults out.
    """

    max_increase_frac: AtLeastZero | None = None
    max_increase: Annotated[AtLeastZero | None, Field(description="in the metric's own unit")] = None
    max_decrease_frac: Fraction | None = None
    max_decrease: Annotated[AtLeastZero | None, Field(description="in the metric's own unit")] = None
    ignore: bool = False

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            raise expected("a budget such as {max_increase_frac: 0.05}", raw)
        return raw

    @model_validator(mode="after")
    def _is_not_empty(self) -> Budget:
        given = [self.max_increase_frac, self.max_increase, self.max_decrease_frac, self.max_decrease]
        if self.ignore == any(limit is not None for limit in given):
            got = "ignore and a limit" if self.ignore else "neither"
            raise expected("a limit such as max_increase_frac: 0.05, or ignore: true", got)
        return self

    @property
    def relative(self) -> float | None:
        """The relative part, whichever direction."""
        return self.max_increase_frac if self.max_increase_frac is not None else self.max_decrease_frac

    @property
    def absolute(self) -> float | None:
        """The absolute part, whichever direction."""
        return self.max_increase if self.max_increase is not None else self.max_decrease


DEFAULT_BUDGETS: dict[str, dict[str, float]] = {
    "latency_p50_ms": {"max_increase_frac": 0.02, "max_increase": 0.1},
    "latency_p99_ms": {"max_increase_frac": 0.04, "max_increase": 0.5},
    "ttft_p50_ms": {"max_increase_frac": 0.03, "max_increase": 0.2},
    "throughput_rps": {"max_decrease_frac": 0.03},
    "error_frac": {"max_increase": 0.01},
    "peak_memory_mib": {"max_increase_frac": 0.05, "max_increase": 32.0},
    "exact_match_frac": {"max_decrease": 0.02},
    "reference_match_frac": {"max_decrease": 0.05},
}
"""Budgets without a file. Half of the change that must be found (5 % of p50, 10 % of p99) would leave no room for the
interval; these leave 3 and 6 points. The absolute parts are what a scheduler's whim costs on an idle machine."""


def _budgets(written: Any) -> Any:
    """Budgets of the file on top of the defaults."""
    if not isinstance(written, Mapping):
        return written
    return {**DEFAULT_BUDGETS, **written}


def wrong_way(row: MetricDef, written: Iterable[str]) -> tuple[str, str] | None:
    """(what to write, what was written) when a budget's keys limit a change for the better."""
    worse, better = ("increase", "decrease") if row.better == "minimize" else ("decrease", "increase")
    for key in written:
        if key.startswith(f"max_{better}"):
            return key.replace(better, worse), key
    return None


class Spread(Strict):
    """Run-to-run spread: how much two launches of the same server differ, as a standard deviation, 0.01 = 1 %."""

    floor_frac: Annotated[
        AtLeastZero, Field(description="never believe a smaller spread than this, however alike a few launches were")
    ] = 0.002
    assumed_frac: Annotated[
        Positive, Field(description="spread where fewer than 2 degrees of freedom could estimate it")
    ] = 0.05


class Rules(Strict):
    """Every key of a rules file."""

    metrics: Annotated[dict[str, Budget], BeforeValidator(_budgets)] = Field(
        default_factory=lambda: {name: Budget.model_validate(limits) for name, limits in DEFAULT_BUDGETS.items()}
    )
    false_alarm: Annotated[
        Level,
        Field(description="probability that a gate without any true excess answers regressed (family-wise, Holm)"),
    ] = 0.01
    false_pass: Annotated[
        Level, Field(description="probability that a change beyond its budget passes (each comparison's own level)")
    ] = 0.05
    candidates: Annotated[
        Literal["all", "common"],
        Field(description="all: a baseline candidate that was not measured again is a finding"),
    ] = "all"
    spread: Spread = Spread()

    @model_validator(mode="after")
    def _names_and_directions(self) -> Rules:
        """The file loader reports the same with file and line, before it comes to this."""
        for name, budget in self.metrics.items():
            row = metric_row(_metric_name(name))
            assert row is not None
            if wrong := wrong_way(row, budget.model_dump(exclude_none=True)):
                raise expected(f"{name}: {wrong[0]} ({row.better} is its goal)", wrong[1])
        return self

    def budgets(self) -> dict[str, Budget]:
        """Metric -> budget of those that are judged."""
        return {name: budget for name, budget in self.metrics.items() if not budget.ignore}

    def asked(self) -> tuple[str, ...]:
        """The metrics that the file itself names: a default may be missing from a run, what was asked for may not."""
        defaults = {name: Budget.model_validate(limits) for name, limits in DEFAULT_BUDGETS.items()}
        return tuple(name for name, budget in self.budgets().items() if budget != defaults.get(name))
