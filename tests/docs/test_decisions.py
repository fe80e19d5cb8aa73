"""DECISIONS.md: its index by room names every entry."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "DECISIONS.md").read_text(encoding="utf-8")


def test_the_index_names_every_entry_once() -> None:
    index = TEXT.partition("## Index by room")[2].partition("\n## ")[0]
    rows = [row.split("|")[2] for row in index.splitlines() if row.startswith("| ")][2:]
    listed = [
        int(number) for row in rows for number in re.findall(r"(?:^|· |and )\s*(\d+) ", row.replace(" and ", " · "))
    ]
    entries = [int(number) for number in re.findall(r"^## (\d+)\.", TEXT, re.M)]
    assert sorted(listed) == entries
