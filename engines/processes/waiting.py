"""Waiting for a server: until a deadline, with a line every few seconds that names what is waited for.

The lines go to the logger `engines.waiting`; who launches an engine shows them (harness/trial/launch.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger("engines.waiting")

FIRST_S = 3.0
"""What is ready sooner needs no line."""
EVERY_S = 5.0


class Waiting:
    """One wait of at most `timeout_s`, which began at `begin_s` of the clock `now` (None: now)."""

    def __init__(
        self,
        timeout_s: float,
        *,
        begin_s: float | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.timeout_s = timeout_s
        self._now = now
        self._sleep = sleep
        self._begin_s = now() if begin_s is None else begin_s
        self._next_s = FIRST_S

    @property
    def waited_s(self) -> float:
        """Seconds so far."""
        return self._now() - self._begin_s

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(0.0, self.timeout_s - self.waited_s)

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return self.waited_s >= self.timeout_s

    def pause(self, poll_s: float, what: str) -> None:
        """Sleep between two looks, after a line about `what` where one is due."""
        if self.waited_s >= self._next_s:
            self._next_s = self.waited_s + EVERY_S
            logger.info("waiting: %s (%.0f s of at most %.0f s)", what, self.waited_s, self.timeout_s)
        self._sleep(poll_s)
