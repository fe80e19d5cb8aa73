"""The verdict on the client, on real clients that are really starved: truth is what the server saw arrive, and when.

A load process is starved in two ways of our own making: its core is given to competitors, or it is frozen again and
again by signals. Each run is cut into windows of a hundred requests; a window counts as starved when it was starved on
purpose and its requests reached the server late, as healthy when nothing was done to it and they arrived on time.

Run again and again on a busy 2-core machine (2026-11-23): 318 of 318 starved windows found, 0 of 306 healthy accused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.measure.doubts import VOID_LAG_FRAC, VOID_LAG_MIN_MS, client_verdict
from tests.truth.rig import WARMUP, Law, Measured, even, measure
from tests.truth.starving import frozen, held_by_competitors, load_processes

RATE_RPS, REQUESTS, WINDOW = 400.0, 1000, 100
SERVICE_MS = 8.0
LIMIT_MS = max(VOID_LAG_MIN_MS, VOID_LAG_FRAC * SERVICE_MS)
SURE_FRAC = 1.5
"""A window is starved from 1.5 times the limit on, healthy up to the limit over 1.5; between, either word is right."""


Starve = Callable[[list[int]], None]


def _run(folder: Path, starve: Starve | None) -> Measured:
    begun: list[threading.Thread] = []

    def begin(done: int) -> None:
        if starve is not None and done and not begun:
            begun.append(threading.Thread(target=starve, args=([each.pid for each in load_processes()],)))
            begun[0].start()

    folder.mkdir()
    law = Law(delays_ms=[SERVICE_MS] * REQUESTS)
    run = measure(law, folder, offsets_s=even(RATE_RPS, REQUESTS), on_progress=begin)
    for thread in begun:
        thread.join()
    return run


def _windows(run: Measured) -> Iterator[tuple[float, str | None]]:
    """(how late the window's requests reached the server, 99th percentile in ms; the verdict on the window)."""
    records = run.records
    arrived_ns = np.sort(run.log[WARMUP:, 0])
    due_ns = np.array([record.intended_ns for record in records])
    late_ms = (arrived_ns - due_ns) / 1e6
    for begin in range(0, len(records) - WINDOW + 1, WINDOW):
        part = slice(begin, begin + WINDOW)
        yield float(np.quantile(late_ms[part], 0.99)), client_verdict(records[part], run.use, is_open_loop=True)


def judged(folder: Path, starve: Starve | None) -> tuple[list[bool], list[bool]]:
    """Of one run: whether each surely starved window was found, and whether each surely healthy one was accused."""
    found, accused = [], []
    for late_ms, verdict in _windows(_run(folder, starve)):
        if starve is not None and late_ms > SURE_FRAC * LIMIT_MS:
            found.append(verdict is not None)
        if starve is None and late_ms < LIMIT_MS / SURE_FRAC:
            accused.append(verdict is not None)
    return found, accused


@pytest.mark.parametrize("starve", [held_by_competitors, frozen])
def test_a_client_that_is_really_starved_is_found(starve: Starve, tmp_path: Path) -> None:
    found, _ = judged(tmp_path / "run", starve)
    assert len(found) >= 5, "it was starved for 2 of its 2.5 seconds, so windows must have been late"
    assert sum(found) / len(found) >= 0.99


def test_a_client_that_nothing_holds_is_not_accused(tmp_path: Path) -> None:
    for attempt in range(3):
        _, accused = judged(tmp_path / str(attempt), None)
        if len(accused) >= 5:
            break
    assert sum(accused) <= 0.01 * len(accused)
    if len(accused) < 5:
        pytest.skip("the machine itself was late in three runs: too few healthy windows to judge by")
