"""Recorded traces of arrival times (and lengths) as a load's schedule: JSON lines or CSV files.

Columns, by any of their usual names: the time as `timestamp_s` (seconds), `timestamp_ms` (milliseconds), `timestamp`
(Mooncake: milliseconds in JSON lines) or `TIMESTAMP` (Azure: a date and time); the lengths in tokens as
`input_length`, `output_length` (Mooncake) or `ContextTokens`, `GeneratedTokens` (Azure).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import ScenarioError

_INPUT = ("input_length", "input_tokens", "ContextTokens")
_OUTPUT = ("output_length", "output_tokens", "GeneratedTokens")
MAX_LENGTH = 1_000_000
"""Tokens: the longest contexts that are served."""
_TIMES = ("timestamp_s", "timestamp_ms", "timestamp", "TIMESTAMP")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One arrival, seconds from an origin of the trace's own; lengths in tokens, None where the trace has none."""

    at_s: float
    input_length: int | None
    output_length: int | None


def read_trace(path: Path) -> tuple[TraceRow, ...]:
    """The arrivals of a trace, in time order. Raises ScenarioError, 'file:line: ...'."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ScenarioError(f"{path}: the trace cannot be read ({error.strerror}); name a JSONL or CSV file") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}") from error
    is_json = text.lstrip().startswith("{")
    rows: list[TraceRow] = []
    for number, fields in _json_lines(path, text) if is_json else _csv_lines(path, text):
        row = _row(fields, f"{path}:{number}", is_json)
        if rows and row.at_s < rows[-1].at_s:
            raise ScenarioError(
                f"{path}:{number}: expected times in rising order, got {row.at_s:g} s after {rows[-1].at_s:g} s; "
                "sort the trace by time"
            )
        rows.append(row)
    if not rows:
        raise ScenarioError(f'{path}: expected at least one arrival {{"timestamp_s": ...}}, the trace is empty')
    return tuple(rows)


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ScenarioError(f"{path}:{number}: not a line of JSON ({error}); cut or correct this line") from error
        if not isinstance(fields, dict):
            raise ScenarioError(f"{path}:{number}: expected an object with a time, got {type(fields).__name__}")
        yield number, fields


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(text.splitlines())
    header = next(reader, [])
    if header and not any(name in header for name in _TIMES):
        raise ScenarioError(
            f"{path}:1: expected a header with one of {', '.join(_TIMES)}, got {', '.join(header)!r}; "
            "name the column of the times"
        )
    if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise ScenarioError(f"{path}:1: expected every column once, got {', '.join(twice)!r} again; rename one of them")
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise ScenarioError(f"{path}:{reader.line_num}: expected {len(header)} columns, got {len(cells)}")
        yield reader.line_num, dict(zip(header, cells, strict=True))


def _row(fields: Mapping[str, Any], where: str, is_json: bool) -> TraceRow:
    return TraceRow(
        at_s=_time_s(fields, where, is_json),
        input_length=_length(fields, _INPUT, where),
        output_length=_length(fields, _OUTPUT, where),
    )


def _time_s(fields: Mapping[str, Any], where: str, is_json: bool) -> float:
    name = next((name for name in _TIMES if fields.get(name) not in (None, "")), None)
    if name is None:
        raise ScenarioError(f"{where}: expected a time in one of {', '.join(_TIMES)}, got {', '.join(fields)!r}")
    value = fields[name]
    at_s = _number(value)
    if at_s is None and name in ("timestamp", "TIMESTAMP"):
        at_s = _date_s(str(value))
    elif at_s is not None and (name == "timestamp_ms" or (name == "timestamp" and is_json)):
        at_s /= 1e3
    if at_s is None or at_s < 0:
        raise ScenarioError(f"{where}: expected {name} as a number >= 0, got {value!r}")
    return at_s


def _number(value: Any) -> float | None:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _date_s(text: str) -> float | None:
    """Seconds since 1970 of an ISO date and time; Azure's seven digits of a second are cut to six."""
    head, dot, fraction = text.strip().partition(".")
    try:
        moment = datetime.fromisoformat(head + (dot + fraction[:6] if fraction.isdigit() else dot + fraction))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _length(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> int | None:
    name = next((name for name in names if fields.get(name) not in (None, "")), None)
    if name is None:
        return None
    number = _number(fields[name])
    if number is None or number != int(number) or not 1 <= number <= MAX_LENGTH:
        raise ScenarioError(
            f"{where}: expected {name} as a whole number from 1 to {MAX_LENGTH:,}, got {fields[name]!r}"
        )
    return int(number)
