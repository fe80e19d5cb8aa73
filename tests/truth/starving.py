"""Two ways to starve load processes: their core is given to competitors, or they are frozen again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

STARVED_S = 2.0
LONGEST_S = 20
"""Competitors end by themselves after this, whatever happens to the test."""
SPIN = f"import signal; signal.alarm({LONGEST_S})\nwhile True: pass"
COMPETITORS = 2


def load_processes() -> list[psutil.Process]:
    """Those that this process has started."""
    children = psutil.Process().children()
    return [child for child in children if "harness.load.client.locustfile" in child.cmdline()]


@contextmanager
def competitors(pids: list[int]) -> Iterator[None]:
    """The core of these processes is given to others; they get what those leave, as long as the context lasts."""
    core = max(os.sched_getaffinity(0))
    for pid in pids:
        os.sched_setaffinity(pid, {core})
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    spinners = [subprocess.Popen([sys.executable, "-S", "-c", SPIN]) for _ in range(COMPETITORS)]
    for spinner in spinners:
        os.sched_setaffinity(spinner.pid, {core})
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
        for pid in pids:
            os.sched_setaffinity(pid, os.sched_getaffinity(0))


def held_by_competitors(pids: list[int], for_s: float = STARVED_S) -> None:
    """Starved by processes that want the same core."""
    with competitors(pids):
        time.sleep(for_s)


def frozen(pids: list[int], for_s: float = STARVED_S) -> None:
    """Stopped for 60 ms of every 100."""
    for _ in range(int(for_s / 0.1)):
        for number, rest_s in ((signal.SIGSTOP, 0.06), (signal.SIGCONT, 0.04)):
            for pid in pids:
                os.kill(pid, number)
            time.sleep(rest_s)
