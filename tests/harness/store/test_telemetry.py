"""Telemetry files, and raw records written before a column existed."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq

from harness.store.reader import read_engine_metrics, read_request_records, read_telemetry
from harness.store.writer import RunWriter
from tests.harness.measure.records import closed_loop
from tests.harness.store.trials import a_manifest

YOUNG = ("token_ns", "connect_ns")


def test_telemetry_comes_back_with_gaps_as_nan(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, a_manifest()) as writer:
        path = writer.write_telemetry(
            "t", {"t_ns": [1, 2**60], "cpu_frac_engine": [0.5, 0.25], "gpu_power_w": [None, 3.0]}
        )
    assert path.name == "t.parquet"
    table = read_telemetry(writer.layout.root, "t")
    assert table is not None
    assert table["t_ns"].tolist() == [1, 2**60]
    assert table["cpu_frac_engine"].tolist() == [0.5, 0.25]
    assert math.isnan(table["gpu_power_w"][0])


def test_what_the_server_published_lies_beside_the_telemetry(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, a_manifest()) as writer:
        writer.write_engine_metrics("t", {"t_ns": [1, 2**60], "took_ms": [1.5, 2.0], "running": [None, 3.0]})
    table = read_engine_metrics(writer.layout.root, "t")
    assert table is not None
    assert table["t_ns"].tolist() == [1, 2**60]
    assert math.isnan(table["running"][0])


def test_a_trial_without_telemetry_has_none(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, a_manifest()) as writer:
        assert read_telemetry(writer.layout.root, "t") is None
        assert read_engine_metrics(writer.layout.root, "t") is None


def test_records_written_before_a_column_existed_are_read(tmp_path: Path) -> None:
    records = closed_loop(users=2, rounds=3, latency_ms=5.0)
    with RunWriter.create(tmp_path, a_manifest()) as writer:
        path = writer.write_requests("t", records)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([name for name in YOUNG if name in table.column_names]), path)
    assert read_request_records(writer.layout.root, "t") == records
