"""A level of load: a number of users, a rate, or the name of one load of several, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LevelAxis = Literal["users", "rate_rps", "load"]
_LEVEL_UNITS: Mapping[LevelAxis, str] = {"users": "users", "rate_rps": "requests/s"}


@dataclass(frozen=True, slots=True)
class Level:
    """How hard a load is: so many users of a closed loop, or requests per second of an open one; of a list of loads the
    `name` of one, whose `value` is 0, since loads of different kinds have no order."""

    axis: LevelAxis
    value: float = 0.0
    name: str = ""

    def __str__(self) -> str:
        """'users=16', 'load=chat', as it stands behind the '@' of a metric's name."""
        return f"{self.axis}={self.name or format(self.value, '.10g')}"

    @property
    def text(self) -> str:
        """'16 users', '20 requests/s', 'load chat'."""
        return f"load {self.name}" if self.name else f"{self.value:.10g} {_LEVEL_UNITS[self.axis]}"
