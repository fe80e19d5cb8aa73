"""A number that another tool printed, as a trial that it measured keeps it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A number as another tool printed it, under its own name there: to be read, never ranked or judged. `metric` is
    ours of the same meaning, '' where there is none, and `differs` how the two are made differently, as far as known.
    """

    name: str
    value: float
    unit: str
    metric: str = ""
    differs: str = ""
