"""Names of metrics at one level of a sweep, such as 'latency_p99_ms@users=16'."""

from __future__ import annotations

import math

from harness.records import Level

LEVEL_MARK = "@"


def at_level(name: str, level: Level) -> str:
    """'latency_p99_ms' at 16 users -> 'latency_p99_ms@users=16'."""
    return f"{name}{LEVEL_MARK}{level}"


def without_level(name: str) -> str:
    """'latency_p99_ms@users=16' -> 'latency_p99_ms'."""
    return name.partition(LEVEL_MARK)[0]


def level_in(name: str) -> Level | None:
    """The level that a metric's name ends with; None where it has none, or one that cannot be."""
    axis, _, value = name.partition(LEVEL_MARK)[2].partition("=")
    if axis == "users" and value.isdecimal() and int(value) > 0:
        return Level("users", int(value))
    try:
        rate_rps = float(value)
    except ValueError:
        return None
    return Level("rate_rps", rate_rps) if axis == "rate_rps" and 0 < rate_rps < math.inf else None
