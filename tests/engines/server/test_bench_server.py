"""`make bench-server`: its search for the largest rate, and its table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.bench.server import bench_server, loads


def measured(p99_ms: float) -> loads.Measured:
    return loads.Measured(
        requests=10, failed=0, rate_rps=9.0, p50_ms=1.0, p99_ms=p99_ms, front_us=100.0, workers_us=400.0, client_us=50.0
    )


@pytest.mark.parametrize(("capacity_rps", "near"), [(163.0, True), (1900.0, True), (60.0, True), (3.0, False)])
def test_the_largest_rate_is_found_from_any_start(
    monkeypatch: pytest.MonkeyPatch, capacity_rps: float, near: bool
) -> None:
    asked: list[float] = []

    def poisson(running: Any, folder: Path, rate_rps: float, seconds: float) -> loads.Measured:
        asked.append(rate_rps)
        return measured(5.0 if rate_rps <= capacity_rps else 80.0)

    monkeypatch.setattr(loads, "poisson", poisson)
    found = bench_server.largest_rate(None, Path(), 1.0)  # type: ignore[arg-type]
    assert len(asked) <= 20
    assert capacity_rps / bench_server.STEP <= found <= capacity_rps if near else found == 0.0


def test_two_checkouts_take_turns_as_abba() -> None:
    here, there = None, Path("/older")
    assert bench_server.turns([here]) == [here]
    assert bench_server.turns([there, here]) == [there, here, here, there]


def test_the_table_has_every_part_and_names_who_is_absent() -> None:
    cost = {"checkout": "this", "users": 1, **asdict(measured(5.0)), "engine_us": 300.0, "server_us": 200.0}
    rival = {"server": "ours", "batch": 1, "connections": 8, **asdict(measured(5.0)), "server_us": 500.0}
    text = bench_server.table(
        {
            "cpu": "a CPU", "cores": 2, "load": (0.0, 0.0, 0.0), "stages": {"parse": 7.6}, "costs": [cost],
            "rate": [{"checkout": "this", "largest_rps": 400.0, "p50_ms": 3.0, "in_process_p50_ms": 2.8,
                      "added_p50_ms": 0.2}],
            "rivals": [rival, {"server": "djl", "batch": 1, "connections": 8, "absent": "not found"}],
        }
    )  # fmt: skip
    for line in (
        "| parse | 7.6 |",
        "| this | 1 | 9.00 | 1.00 | 100.00 | 400.00 | 300.00 | 200.00 | 50.00 |",
        "| this | 400.00 | 3.00 | 2.80 | 0.20 |",
        "| ours | 1 | 8 | 9.00 | 1.00 | 5.00 | 500.00 | 0 |",
        "- djl is absent: not found",
    ):
        assert line in text.splitlines()
