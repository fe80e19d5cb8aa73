"""What holds for every test run: Ctrl-C works in child processes, no proxy stands before loopback, the longest file
begins first, and a reason for skipping is printed once."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from hypothesis import settings

from engines.processes.no_proxy import keep_direct

LONGEST = "tests/kernels/test_build.py"
"""Sanitizer builds, minutes of one core: begun last, they would run alone at the end."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dyno", deadline=None)  # a busy machine is no finding
settings.load_profile("dyno")
keep_direct()  # a developer's proxy must not see the emulators


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """pytest's own list has a line for every place that skips; here it must not push the failures out of sight."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section("why tests were skipped")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:4} x {reason}")
