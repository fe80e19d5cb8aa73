"""The geometric mean of several metrics as one objective (`objectives: [{geometric_mean: [...]}]`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from harness.measure.geometric_mean import NAME
from harness.measure.metrics import metric_row
from harness.scenario.fields import Strict, expected, listed
from harness.scenario.goals import Objective
from harness.scenario.load_list import is_of_a_window

ZERO_WHEN_GOOD = ("lag_", "slip_", "connect_", "preemptions_")
"""How metrics begin, beside shares to minimize, that are 0 where all is well: there is no 1/value of them."""


class GeometricMean(Strict):
    """The geometric mean of several metrics, larger is better: what is to be minimized counts as 1/value."""

    geometric_mean: Annotated[
        tuple[Objective, ...],
        BeforeValidator(listed),
        Field(description="objectives whose geometric mean is the one objective; those to minimize count as 1/value"),
    ]
    goal: Literal["maximize"] = "maximize"

    @property
    def name(self) -> str:
        """The metric's name."""
        return NAME

    @property
    def metric(self) -> str:
        """The metric's name."""
        return NAME

    @property
    def judged(self) -> tuple[str, ...]:
        """The names of the metrics that decide it, with their levels."""
        return tuple(one.name for one in self.geometric_mean)

    @model_validator(mode="after")
    def _has_a_mean(self) -> GeometricMean:
        names = [one.name for one in self.geometric_mean]
        if len(names) < 2:
            raise expected("two metrics or more in geometric_mean", names, "write one of them as an objective alone")
        if len(set(names)) != len(names):
            raise expected("every metric once in geometric_mean", names)
        for one in self.geometric_mean:
            row = metric_row(one.metric)
            if row is None or not is_of_a_window(one.metric):
                raise expected("metrics of the load in geometric_mean", one.metric)
            if row.better == "minimize" and (row.unit == "frac" or row.name.startswith(ZERO_WHEN_GOOD)):
                hint = f"write it as a constraint instead, such as {one.metric}: {{max: ...}}"
                raise expected("metrics in geometric_mean that are above 0 where all is well", one.metric, hint)
        return self


def _form(objective: Any) -> str:
    is_mean = NAME in objective if isinstance(objective, dict) else isinstance(objective, GeometricMean)
    return "mean" if is_mean else "one"


AnyObjective = Annotated[Annotated[Objective, Tag("one")] | Annotated[GeometricMean, Tag("mean")], Discriminator(_form)]
