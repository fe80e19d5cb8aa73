"""The tables of bench-engines and bench-lengths: like is compared with like, and a stopped run keeps its rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.engines import bench_lengths
from tests.bench.engines.engines_table import best_table, put, summary


def sample(variant: str, precision: str, threads: int, batch: int, new: int, wall_s: float) -> dict[str, Any]:
    return {
        "variant": variant, "precision": precision, "threads": threads, "batch": batch, "new": new, "wall_s": wall_s,
        "cpu_s": wall_s, "peak_bytes": 10**6, "other_cores": 0.0,
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    samples = []
    for variant, precision, one_s, two_s in (
        ("t5 int8", "int8", 4.0, 2.0), ("ctranslate2 int8", "int8", 4.0, 10.0), ("onnxruntime int8", "int8", 9.0, 5.0),
        ("t5 int4", "int4", 2.0, 1.0), ("onnxruntime int4", "int4", 8.0, 8.0), ("t5 bf16", "bf16", 6.0, 3.0),
    ):  # fmt: skip
        for threads, whole_s in ((1, one_s), (2, two_s)):
            samples += [
                sample(variant, precision, threads, 8, 1, 0.5),
                sample(variant, precision, threads, 8, 64, whole_s),
            ]
    return summary(samples, {}, {}, 64)


def test_each_engine_is_compared_at_its_best_number_of_threads() -> None:
    lines = best_table(rows()).splitlines()
    assert "| int8 | 8 | t5 int8 | 256 (2) | ctranslate2 int8 | 128 (1) | 2.00x |" in lines
    assert "| int4 | 8 | t5 int4 | 512 (2) | ctranslate2 int8 | 128 (1) | 4.00x |" in lines
    assert "| bf16 | 8 | t5 bf16 | 171 (2) | none ran | | |" in lines


def test_an_engine_that_ended_halfway_has_no_row() -> None:
    assert summary([sample("t5 int8", "int8", 1, 8, 1, 0.5)], {}, {}, 64) == []


def test_a_stopped_run_of_lengths_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"first_s": 1.0, "whole_s": 2.0, "peak_bytes": 10**6, "other_cores": 0.0}])

    def once(*_: Any) -> dict[str, Any]:
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(bench_lengths, "once", once)
    variants = [v for v in bench_lengths.VARIANTS if v.name in ("t5 fp32", "t5 int8")]
    run = {
        "machine": {"cores": 2, "cpu": "CPU", "isa": "avx2"}, "threads": 2, "repetitions": 1, "memory": [],
        "absent": {},
    }  # fmt: skip

    def keep(found: list[dict[str, Any]]) -> None:
        put(tmp_path, run | {"rows": found}, bench_lengths.table(run | {"rows": found}))

    with pytest.raises(KeyboardInterrupt):
        bench_lengths.measure(variants, tmp_path, 2, 1, [(2048, 64, 1)], keep)
    assert "| 2048 / 64, 1 | t5 fp32 | 32 | 1.00 | 1 | 0.00 | 1 |" in (tmp_path / "table.md").read_text(
        encoding="utf-8"
    )
    assert len(json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["rows"]) == 1


def test_a_cell_is_named_as_in_the_table() -> None:
    assert bench_lengths.cell_of("512/64x16") == (512, 64, 16)
    with pytest.raises(argparse.ArgumentTypeError, match="IN/OUTxROWS"):
        bench_lengths.cell_of("512")
