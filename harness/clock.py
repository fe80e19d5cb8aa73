"""Clocks: time as integer monotonic nanoseconds, replaceable in tests."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock. On Linux every process reads the same one (CLOCK_MONOTONIC)."""

    def now_ns(self) -> int: ...
    def sleep_s(self, duration_s: float) -> None: ...


class SystemClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_s(self, duration_s: float) -> None:
        time.sleep(duration_s)


class FakeClock:
    """A clock that moves only when advanced; for tests."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_s(self, duration_s: float) -> None:
        self._now_ns += int(duration_s * 1e9)
