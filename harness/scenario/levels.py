"""The levels of a load: one number of users or rate, or several in turn in one launch (a sweep)."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from harness.level import Level
from harness.measure.levels import LOAD_NAME
from harness.scenario.fields import AtLeastOne, Strict, expected, one_or_more

MAX_RPS = 1_000_000.0
"""A hundred load processes of this project's could not send it."""


def no_endless_rate(rate: Any) -> Any:
    """Refuses 'inf', which other tools take for all requests at once: here that is a closed loop, or kind max_rate."""
    if str(rate).lower().strip(" .+") in ("inf", "infinity"):
        hint = "for as much as the server takes use load: {kind: closed, users: N}, or kind: max_rate"
        raise expected("a finite rate", "inf", hint)
    return rate


Rate = Annotated[float, BeforeValidator(no_endless_rate), Field(gt=0.0, le=MAX_RPS, description="requests per second")]


def _several(levels: Any) -> Any:
    if len(levels) < 2:
        raise expected("one number, or a list of two and more", list(levels), "a list is a sweep: its levels in turn")
    return one_or_more(levels)


def _ascending(levels: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(sorted(levels))


def _how_many(levels: Any) -> str:
    return "several" if isinstance(levels, list | tuple) else "one"


_Sweep = (BeforeValidator(_several), AfterValidator(_ascending))
UserLevels = Annotated[
    Annotated[AtLeastOne, Tag("one")] | Annotated[tuple[AtLeastOne, ...], *_Sweep, Tag("several")],
    Discriminator(_how_many),
    Field(description="users at a time; a list is a sweep: every level measured in one launch, the smallest first"),
]
RateLevels = Annotated[
    Annotated[Rate, Tag("one")] | Annotated[tuple[Rate, ...], *_Sweep, Tag("several")],
    Discriminator(_how_many),
    Field(description="requests per second; a list is a sweep: every rate measured in one launch, the smallest first"),
]


def load_name(name: Any) -> Any:
    """Refuses what could not be part of a metric's name."""
    if not isinstance(name, str) or not LOAD_NAME.fullmatch(name):
        raise expected("up to 40 lower-case letters, digits, dashes and underscores", name)
    return name


class Levels(Strict):
    """A load that may be a sweep: several levels, measured one after the other in one launch."""

    name: Annotated[
        Annotated[str, BeforeValidator(load_name)] | None, Field(description="what it is called in a list of loads")
    ] = None

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of a sweep, the smallest first; () where the load has only one."""
        return ()

    def at(self, level: Level) -> Self:
        """The load of one level alone."""
        return self.model_copy(update={level.axis: level.value})
