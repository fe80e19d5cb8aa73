"""What holds for every test run: Ctrl-C works in child processes, and the longest file begins first."""

from __future__ import annotations

import signal

import pytest

LONGEST = "tests/kernels/test_build.py"
"""Sanitizer builds, minutes of one core: begun last, they would run alone at the end."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
