"""Waiting for what another process or thread does, where no event can be waited for: the only loop that polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT_S = 120.0
"""Reached only by a test that fails: the busiest machine is done long before."""
PAUSE_S = 0.02


def eventually(check: Callable[[], T], what: str = "what was waited for", limit_s: float = LIMIT_S) -> T:
    """The first truthy value of `check()`. A `limit_s` of its own is a claim of the test: so soon must it come."""
    deadline_s = time.monotonic() + limit_s
    while not (value := check()):
        assert time.monotonic() < deadline_s, f"did not come within {limit_s:g} s: {what}"
        time.sleep(PAUSE_S)
    return value
