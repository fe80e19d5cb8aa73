"""A clock for waits that moves only when somebody sleeps."""

from __future__ import annotations

from engines.processes.waiting import Waiting


class FakeTime:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s

    def waiting(self, timeout_s: float) -> Waiting:
        """A wait on this clock."""
        return Waiting(timeout_s, now=self.now, sleep=self.sleep)
