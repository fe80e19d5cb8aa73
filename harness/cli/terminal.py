"""The terminal's width, for the tables that commands print."""

from __future__ import annotations

import sys

from rich.console import Console

PIPED_WIDTH = 160
"""Columns where stdout is no terminal: wide enough for the published table and the intervals."""


def table_console() -> Console:
    """A console on stdout for a table that wraps: as wide as the terminal, PIPED_WIDTH elsewhere."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
