"""The README's table of axes holds every axis, with its default and its key."""

from __future__ import annotations

from pathlib import Path

from engines.setting import AXES, Axis

README = Path(__file__).parents[2] / "scenarios" / "README.md"


def _row(axis: Axis) -> tuple[str, str, str]:
    default = "null" if axis.default is None else axis.default
    return f"`{axis.name}`", f"`{default}`", f"`{axis.key}`"


def test_the_readme_lists_every_axis_in_order() -> None:
    table = README.read_text().partition("### The axes")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:3] == "| `"]
    assert [(row[0], row[2], row[3]) for row in rows] == [_row(axis) for axis in AXES]
