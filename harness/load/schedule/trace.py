"""Recorded traces of arrival times (and lengths) as a load's schedule: JSON lines, a JSON array, CSV or Parquet files.

Which columns are understood stands in trace_columns.py. Times are numbers in a unit, or dates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from harness.errors import ScenarioError
from harness.load.schedule.trace_blocks import BLOCK_TOKENS, blocks_of, check_blocks
from harness.load.schedule.trace_columns import SECONDS, Columns, Unit, column_of, columns_of, unit_of
from harness.load.user_rows import CsvTable, Problems, array_items, json_lines, parquet_rows, read_utf8

MAX_LENGTH = 1_000_000
"""Tokens: the longest contexts that are served."""
MAX_TIME_S = 1e11
"""Seconds since 1970 in the year 5138: a later time is in another unit than was thought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One arrival, seconds from an origin of the trace's own; lengths in tokens, None where the trace has none; the ids
    of the blocks that make its input, none where it names none; the conversation of which it is a turn, '' for none."""

    at_s: float
    input_length: int | None
    output_length: int | None
    blocks: tuple[int, ...] = ()
    session: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace's arrivals in time order, and what a reader should know of how it was read: `times` is the unit of its
    times with the evidence for it, `skipped` rows asked for 0 tokens, `unused` columns are not replayed."""

    rows: tuple[TraceRow, ...]
    times: str
    skipped: int = 0
    unused: tuple[str, ...] = ()


def read_trace(path: Path, time_unit: Unit | None = None, block_tokens: int = BLOCK_TOKENS) -> Trace:
    """The arrivals of a trace; `time_unit` is the scenario's own word for the unit, `block_tokens` the size of the
    blocks that it may name. Raises ScenarioError, one line 'file:line: ...' per problem; of a Parquet file the number
    is that of the row, from 1."""
    problems = Problems(path)
    lines, is_json = _rows(path, problems)
    raw = [row for number, fields, columns in lines if (row := _raw_row(path, number, fields, columns, problems))]
    for row in raw:
        with problems:
            check_blocks(row.blocks, row.input_length, block_tokens, f"{path}:{row.number}")
    problems.raise_if_any()
    kept = [row for row in raw if 0 not in (row.input_length, row.output_length)]
    if not kept:
        empty = f"all its {len(raw)} rows ask for 0 tokens" if raw else "the trace is empty"
        raise ScenarioError(f'{path}: expected at least one arrival {{"timestamp_s": ...}}, {empty}')
    names = dict.fromkeys(name for names in dict.fromkeys(row.columns.names for row in raw) for name in names)
    unit, times = _unit(path, kept, names, is_json=is_json, asked=time_unit)
    rows = tuple(
        TraceRow(
            at_s=row.time * (1.0 if row.is_date else SECONDS[unit]),
            input_length=row.input_length,
            output_length=row.output_length,
            blocks=row.blocks,
            session=row.session,
        )
        for row in kept
    )
    _check_order(path, kept, rows)
    unused = tuple(name for name in names if column_of(name).role == "other")
    return Trace(rows=rows, times=times, skipped=len(raw) - len(kept), unused=unused)


@dataclass(frozen=True, slots=True)
class _RawRow:
    """A row before its unit is known; `columns` are shared by all rows that have the same."""

    number: int
    time: float
    is_date: bool
    input_length: int | None
    output_length: int | None
    blocks: tuple[int, ...]
    session: str
    columns: Columns


_Rows = Iterator[tuple[int, Mapping[str, Any], Columns]]


def _rows(path: Path, problems: Problems) -> tuple[_Rows, bool]:
    """The rows, and whether the file is JSON."""
    if path.suffix == ".parquet":
        return _object_rows(path, parquet_rows(path, "trace"), problems), False
    text = read_utf8(path, "trace", "name a JSONL, CSV or Parquet file")
    match text.lstrip()[:1]:
        case "[":
            return _object_rows(path, array_items(path, text, problems), problems), True
        case "{":
            return _object_rows(path, json_lines(path, text, problems), problems), True
    return _csv_rows(path, text, problems), False


def _object_rows(path: Path, items: Iterable[tuple[int, Any]], problems: Problems) -> _Rows:
    """Rows that each have names and types."""
    known: dict[tuple[str, ...], Columns] = {}
    for number, fields in items:
        with problems:
            if not isinstance(fields, dict):
                raise ScenarioError(f"{path}:{number}: expected an object with a time, got {type(fields).__name__}")
            names = tuple(name for name, value in fields.items() if value not in (None, ""))
            if names not in known:
                known[names] = columns_of(names, f"{path}:{number}")
            yield number, fields, known[names]


def _csv_rows(path: Path, text: str, problems: Problems) -> _Rows:
    table = CsvTable(path, text, problems)
    if not table.header:
        return
    columns = columns_of(table.header, f"{path}:{table.header_line}")
    for number, fields in table.rows():
        yield number, fields, columns


def _raw_row(
    path: Path, number: int, fields: Mapping[str, Any], columns: Columns, problems: Problems
) -> _RawRow | None:
    where = f"{path}:{number}"
    with problems:
        time, is_date = _time(fields[columns.time], columns.time, where)
        return _RawRow(
            number,
            time,
            is_date,
            _length(fields, columns.input, where),
            _length(fields, columns.output, where),
            blocks_of(fields[columns.blocks], columns.blocks, where) if columns.blocks is not None else (),
            _session(fields[columns.session], columns.session, where) if columns.session is not None else "",
            columns,
        )
    return None


def _session(value: Any, name: str, where: str) -> str:
    if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
        return "" if value is None else str(value).strip()
    raise ScenarioError(f"{where}: expected {name} as a text or a whole number, got {value!r:.80}")


def _time(value: Any, name: str, where: str) -> tuple[float, bool]:
    """(the time in its unit, whether it is a date and so in seconds since 1970)."""
    number = _number(value)
    if number is None and (date_s := _date_s(value)) is not None:
        return date_s, True
    if number is None or number < 0:
        raise ScenarioError(f"{where}: expected {name} as a number >= 0, got {value!r:.80}")
    return number, False


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value)[:400]:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _date_s(value: Any) -> float | None:
    """Seconds since 1970 of a date and time, of Parquet's or in ISO's form; digits of a second are cut to six."""
    if isinstance(value, date):
        value = value.isoformat()
    if not isinstance(value, str):
        return None
    head, dot, fraction = value.strip().partition(".")
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
    try:
        moment = datetime.fromisoformat(head + dot + digits[:6] + fraction[len(digits) :])
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds >= 0 else None


def _length(fields: Mapping[str, Any], name: str | None, where: str) -> int | None:
    value = fields[name] if name is not None else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = _number(value)
    if number is None or number != int(number) or not 0 <= number <= MAX_LENGTH:
        raise ScenarioError(f"{where}: expected {name} as a whole number from 0 to {MAX_LENGTH:,}, got {value!r:.80}")
    return int(number)


def _unit(
    path: Path, rows: list[_RawRow], names: Mapping[str, None], *, is_json: bool, asked: Unit | None
) -> tuple[Unit, str]:
    """The unit of the times that are no dates, and a few words on it with the evidence."""
    first = rows[0]
    for row in rows:
        if row.is_date != first.is_date or row.columns.time != first.columns.time:
            raise ScenarioError(
                f"{path}:{row.number}: expected times as on line {first.number} ({first.columns.time}), got "
                f"{row.columns.time} = {row.time:g}; write all times alike"
            )
    named = column_of(first.columns.time).unit
    if asked is not None and (first.is_date or (named is not None and named != asked)):
        got = "dates" if first.is_date else f"the column {first.columns.time}"
        raise ScenarioError(
            f"{path}:{first.number}: expected times in {asked} (workload.load.time_unit), got {got}; remove time_unit"
        )
    if first.is_date:
        return "s", "dates"
    if asked is not None:
        return asked, f"{asked} (time_unit)"
    if named is not None:
        return named, f"{named} ({first.columns.time})"
    is_whole = all(row.time.is_integer() for row in rows)
    if (found := unit_of(names, first.time, is_json=is_json, is_whole=is_whole)) is not None:
        return found[0], f"{found[0]} ({found[1]})"
    if all(row.time == first.time for row in rows):
        return "s", "all at once"
    span = rows[-1].time - first.time
    raise ScenarioError(
        f"{path}:{first.number}: expected a unit for the times in {first.columns.time}: {len(rows)} arrivals over "
        f"{span:g} would be {_duration(span)} in s and {_duration(span / 1e3)} in ms; set workload.load.time_unit to "
        "s, ms, us or ns, or name the column timestamp_s or timestamp_ms"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 3600 else f"{seconds / 3600:.3g} hours"


def _check_order(path: Path, raw: list[_RawRow], rows: tuple[TraceRow, ...]) -> None:
    last_s = 0.0
    for row, one in zip(raw, rows, strict=True):
        if one.at_s < last_s:
            raise ScenarioError(
                f"{path}:{row.number}: expected times in rising order, got {one.at_s:g} s after {last_s:g} s; "
                "sort the trace by time"
            )
        if one.at_s > MAX_TIME_S:
            raise ScenarioError(
                f"{path}:{row.number}: expected a time before the year 5138, got {row.time:g} in "
                f"{row.columns.time}; correct it, or workload.load.time_unit"
            )
        last_s = one.at_s
