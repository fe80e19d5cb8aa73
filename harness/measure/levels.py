"""Names of metrics at one level of a sweep, or one load of a list, such as 'latency_p99_ms@users=16'."""

from __future__ import annotations

import math
import re

from harness.level import Level

LEVEL_MARK = "@"
LOAD_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
"""What a load of a list may be called: it becomes part of a metric's name."""


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
    if axis == "load" and LOAD_NAME.fullmatch(value):
        return Level("load", name=value)
    try:
        rate_rps = float(value)
    except ValueError:
        return None
    return Level("rate_rps", rate_rps) if axis == "rate_rps" and 0 < rate_rps < math.inf else None
