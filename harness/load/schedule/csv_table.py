"""A user's CSV file as rows by column name, with the line of each."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from harness.errors import ScenarioError
from harness.load.schedule.json_lines import Problems

_MARKS = (",", ";", "\t")
"""What may stand between columns: spreadsheets of countries with a decimal comma write semicolons."""


class CsvTable:
    """The header of a CSV text (`header`, on line `header_line`; empty text: no columns), and its rows.

    Raises ScenarioError where a column stands twice or a line is not CSV; a row with too few or too many columns goes
    to `problems`.
    """

    def __init__(self, path: Path, text: str, problems: Problems) -> None:
        self._path = path
        self._problems = problems
        lines = text.split("\n")
        header = next((line for line in lines if line.strip()), "")
        mark = next((mark for mark in _MARKS if mark in header), ",")
        self._reader = csv.reader((f"{line}\n" for line in lines), delimiter=mark, skipinitialspace=True)
        cells = next(self._cells(), [])
        self.header = tuple(name.strip() for name in cells)
        self.header_line = self._reader.line_num
        if twice := [name for name in dict.fromkeys(self.header) if self.header.count(name) > 1]:
            raise ScenarioError(
                f"{path}:{self.header_line}: expected every column once, got {', '.join(twice)!r} again; "
                "rename one of them"
            )

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(line, value by column) of each row that is not blank."""
        for cells in self._cells():
            if not any(cell.strip() for cell in cells):
                continue
            with self._problems:
                if len(cells) != len(self.header):
                    raise ScenarioError(
                        f"{self._path}:{self._reader.line_num}: expected {len(self.header)} columns, got {len(cells)}"
                    )
                yield self._reader.line_num, dict(zip(self.header, cells, strict=True))

    def _cells(self) -> Iterator[list[str]]:
        try:
            yield from (cells for cells in self._reader if cells)
        except csv.Error as error:
            raise ScenarioError(
                f"{self._path}:{self._reader.line_num}: not a line of CSV ({error}); correct this line"
            ) from error
