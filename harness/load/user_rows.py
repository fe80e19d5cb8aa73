"""Rows of a user's file, JSON lines, CSV or Parquet, each with its number; the problems of a file are collected."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import ScenarioError

MOST_PROBLEMS = 20
"""Lines of a file that are named; what is wrong in all of them is seen from the first."""
_MARKS = (",", ";", "\t")
"""What may stand between columns: spreadsheets of countries with a decimal comma write semicolons."""


class Problems:
    """The problems of one file, so that all of its bad lines are named at once: a ScenarioError that is raised inside
    `with problems` is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[str] = []

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ScenarioError):
            self._found.append(str(error))
            return True
        return False

    def raise_if_any(self) -> None:
        """Raises ScenarioError, one line per problem."""
        if not self._found:
            return
        more = len(self._found) - MOST_PROBLEMS
        rest = [f"{self._path}: {more} more lines are wrong"] if more > 0 else []
        raise ScenarioError("\n".join([*self._found[:MOST_PROBLEMS], *rest]))


def read_utf8(path: Path, kind: str, hint: str) -> str:
    """The text of a file, without a byte order mark. Raises ScenarioError: not readable, or not UTF-8."""
    data = b""
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ScenarioError(f"{path}: the {kind} cannot be read ({error.strerror}); {hint}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ScenarioError(
            f"{path}:{line}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}; save the file as UTF-8"
        ) from error


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


def json_lines(path: Path, text: str, problems: Problems) -> Iterator[tuple[int, Any]]:
    """(line, value) of every line that is not blank; broken lines go to `problems`."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        with problems:
            yield number, _value(line, f"{path}:{number}")


def array_items(path: Path, text: str, problems: Problems) -> Iterator[tuple[int, Any]]:
    """(line on which it begins, value) of every item of a JSON array."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    at = text.index("[") + 1
    number = text.count("\n", 0, at) + 1
    is_first = True
    with problems:
        while True:
            begin = at
            at = _past_blanks(text, at)
            if text[at : at + 1] == "]":
                break
            if not is_first:
                if text[at : at + 1] != ",":
                    raise _not_json(f"{path}:{number}", "expected ',' or ']' after an item of the array")
                at = _past_blanks(text, at + 1)
            number += text.count("\n", begin, at)
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                raise _not_json(f"{path}:{number}", _why(error)) from error
            yield number, value
            number += text.count("\n", at, end)
            at, is_first = end, False
        if text[at + 1 :].strip():
            raise _not_json(f"{path}:{number}", "text after the end of the array")


def parquet_rows(path: Path, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, what is not null by column) of each row. Raises ScenarioError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: value for name, value in row.items() if value is not None}
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:  # texts and dates that are none
        raise ScenarioError(f"{path}: the {kind} cannot be read as Parquet ({error!s:.200}); write it anew") from error


def _past_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n") and at < len(text):
        at += 1
    return at


def _value(line: str, where: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _not_json(where, _why(error)) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.60} stands twice")
    return fields


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _not_json(where: str, why: str) -> ScenarioError:
    return ScenarioError(f"{where}: not a line of JSON ({why}); expected one object per line, cut or correct this line")
