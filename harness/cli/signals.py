"""Signals (Ctrl-C, SIGTERM) of a command: the first interrupts, later ones wait for the engine's processes to end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP (the terminal closed; not where nohup had it ignored) becomes
    KeyboardInterrupt; later ones only state that the stop is under way, so that a second Ctrl-C cannot cut short the
    ending of the engine's processes."""
    seen: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if seen:
            print("already stopping; the engine is being ended", file=sys.stderr)
            return
        seen.append(number)
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
