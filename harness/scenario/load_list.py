"""Several loads of any kinds, measured one after the other in one launch (`workload.load` as a list)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, RootModel, Tag, model_validator

from harness.level import Level
from harness.measure.geometric_mean import NAME
from harness.measure.levels import at_level, level_in
from harness.measure.metrics import metric_row
from harness.scenario.fields import expected, listed
from harness.scenario.load_kinds import ClosedLoad, Load, MaxRateLoad, TraceLoad

OF_ONE_LOAD = ("cost_", "weights_read_")
"""How metrics begin that are made from the numbers of the load alone that a trial is judged by."""
OF_A_LAUNCH = (NAME, "load_level", "load_s", *OF_ONE_LOAD)
"""How metrics begin that a launch has once, whatever its loads."""
OPEN_LOOP = ("rate_", "lag_")
"""How metrics begin that only an open loop has."""


class LoadList(RootModel[Annotated[tuple[Load, ...], BeforeValidator(listed)]]):
    """Loads with a name each, in the order in which they are measured."""

    model_config = ConfigDict(frozen=True, strict=True)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The loads, each as a level."""
        return tuple(Level("load", name=load.name or "") for load in self.root)

    def at(self, level: Level) -> Load:
        """The load of that name."""
        return next(load for load in self.root if load.name == level.name)

    @model_validator(mode="after")
    def _is_a_list_of_names(self) -> LoadList:
        if len(self.root) < 2:
            raise expected("two loads or more in a list", len(self.root), "write one load as load: {kind: ..., ...}")
        names = [load.name for load in self.root]
        if None in names:
            kind = self.root[names.index(None)].kind
            raise expected(
                "a name beside every load of a list",
                f"load {names.index(None) + 1} without",
                f"write {{name: {kind}, kind: {kind}, ...}}",
            )
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise expected("every name of a load once", twice)
        for load in self.root:
            if isinstance(load, TraceLoad | MaxRateLoad):
                raise expected("kinds of one window in a list of loads", load.kind, "give it another scenario")
            if load.levels:
                raise expected(
                    "one number of users or one rate_rps in a list of loads",
                    [one.value for one in load.levels],
                    "write each as a load with its name",
                )
        return self


def _form(load: Any) -> str:
    return "list" if isinstance(load, list | tuple | LoadList) else "one"


AnyLoad = Annotated[Annotated[Load, Tag("one")] | Annotated[LoadList, Tag("list")], Discriminator(_form)]


def loads_of(load: Load | LoadList) -> tuple[Load, ...]:
    """Every load of a list; the one load alone where there is one."""
    return load.root if isinstance(load, LoadList) else (load,)


def load_at(load: Load | LoadList, name: str) -> Load | LoadList:
    """The load that a metric of this name is of, where its name states a load of a list; else all of it."""
    level = level_in(name)
    return load.at(level) if isinstance(load, LoadList) and level in load.levels and level is not None else load


def is_of_a_window(name: str) -> bool:
    """Whether each load of a list has this metric anew."""
    row = metric_row(name)
    return row is not None and row.source == "load" and not row.name.startswith(OF_A_LAUNCH)


def names_over(load: Load | LoadList, name: str) -> tuple[str, ...]:
    """The metric of this name at every load of a list that can have it, unless it names one; where there is one load,
    and of what is no metric of a load, the name as it is."""
    if not isinstance(load, LoadList) or level_in(name) is not None or not is_of_a_window(name):
        return (name,)
    is_open = name.startswith(OPEN_LOOP)
    return tuple(
        at_level(name, level) for level in load.levels if not (is_open and isinstance(load.at(level), ClosedLoad))
    )
