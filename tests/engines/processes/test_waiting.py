"""Waits for a server: the deadline, and the lines meanwhile."""

from __future__ import annotations

import logging

import pytest

from tests.engines.processes.fake_time import FakeTime


def test_a_wait_reports_what_it_waits_for_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "engines.waiting")
    clock = FakeTime()
    waiting = clock.waiting(20.0)
    while not waiting.is_over:
        waiting.pause(0.5, "the model")
    assert clock.now_s == 20.0
    assert waiting.left_s == 0.0
    assert caplog.messages == [f"waiting: the model ({at} s of at most 20 s)" for at in (3, 8, 13, 18)]


def test_what_is_ready_soon_needs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "engines.waiting")
    waiting = FakeTime().waiting(20.0)
    for _ in range(6):
        waiting.pause(0.5, "the model")
    assert (waiting.waited_s, waiting.is_over) == (3.0, False)
    assert caplog.messages == []
