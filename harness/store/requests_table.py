"""The stored table of raw requests (Parquet): one row per request, one column per field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentFault
from harness.records import RequestRecord
from harness.units import ms_from_ns

_COLUMNS = (
    ("seq", "int64"), ("user", "int32"), ("prompt_ids", "list<string>"), ("intended_ns", "int64"),
    ("sent_ns", "int64"), ("first_token_ns", "int64"), ("done_ns", "int64"), ("outcome", "string"),
    ("status_code", "int32"), ("input_tokens", "int64"), ("output_tokens", "int64"),
    ("output_ids", "list<string>"), ("is_warmup", "bool"), ("error", "string"), ("token_ns", "list<int64>"),
    ("connect_ns", "int64"), ("name", "string"), ("first_output_ns", "int64"), ("hidden_tokens", "int64"),
    ("counted_by", "string"), ("asked_tokens", "int64"), ("asked_input_tokens", "int64"),
    ("cached_tokens", "int64"), ("planned_ns", "int64"),
)  # fmt: skip


def write_table(path: Path, records: Sequence[RequestRecord], level: str = "") -> None:
    """Write the records as parquet (zstd); `level` names which of several loads of a launch they are of, in a column of
    that name. Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def arrow_type(name: str) -> Any:
        if name.startswith("list<"):
            return pa.list_(arrow_type(name[5:-1]))
        return {"bool": pa.bool_(), "string": pa.string(), "int32": pa.int32(), "int64": pa.int64()}[name]

    columns = {
        name: pa.array([_plain(getattr(record, name)) for record in records], type=arrow_type(kind))
        for name, kind in _COLUMNS
    }
    columns["latency_ms"] = pa.array([ms_from_ns(record.latency_ns) for record in records], type=pa.float64())
    if level:
        columns["level"] = pa.array([level] * len(records), type=pa.string())
    pq.write_table(pa.table(columns), path, compression="zstd")


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """What is read inside is `path`; raises EnvironmentFault in one sentence where it is damaged or may not be."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        why = " ".join(str(error).split())
        raise EnvironmentFault(f"{path}: cannot be read ({why}); restore it or run the scenario again") from error


def read_table(path: Path) -> tuple[RequestRecord, ...]:
    """The records that `write_table` wrote, exactly. Raises EnvironmentFault."""
    import pyarrow.parquet as pq

    with whole(path):
        present = set(pq.read_schema(path).names)  # a run of an earlier version lacks the younger columns
        rows = pq.read_table(path, columns=[name for name, _ in _COLUMNS if name in present]).to_pylist()
    return tuple(RequestRecord(**{name: _tupled(value) for name, value in row.items()}) for row in rows)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
