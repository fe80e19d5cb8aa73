"""The stored tables of a trial's load over time, of the machine and of its server: time in ns, then the readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def write_columns(path: Path, columns: Mapping[str, Sequence[float | None]]) -> None:
    """Write the columns as parquet (zstd). Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {
        name: pa.array(values, type=pa.int64() if name.endswith("_ns") else pa.float64())
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path, compression="zstd")
