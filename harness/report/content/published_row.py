"""The one row that was published elsewhere for FLAN-T5-XXL, as a baseline in a report, with what it leaves out."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from harness.report.content.result_table import model_name
from harness.store.reader import Run

_FILE = Path(__file__).with_suffix(".toml")


@cache
def published() -> dict[str, Any]:
    """The row and what is known about it, as published_row.toml holds them."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def published_text(run: Run) -> str:
    """The published row, or why it is not shown: it holds for one model only."""
    known = published()
    if known["model"] not in model_name(run).lower():
        return f"Published baseline: none for {model_name(run)} (only {known['row']['Model']} was published)"
    row = " | ".join(known["row"].values())
    return (
        f"Published baseline, {known['machine']}: {row}\n  source: {known['source']}\n  derived: {known['derived']}\n"
        f"  not published: {', '.join(known['not_published'])}; so no interval, and no comparison beyond the order of "
        "magnitude"
    )
