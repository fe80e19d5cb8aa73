"""The memory roof: what the caches hold is counted once each, and reading is measured beyond it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.measure.machine import memory_roof as module
from harness.measure.machine.memory_roof import cache_bytes, memory_roof


def _cpu(folder: Path, number: int, *caches: tuple[int, str, str]) -> None:
    for index, (level, size, shared) in enumerate(caches):
        place = folder / f"cpu{number}" / "cache" / f"index{index}"
        place.mkdir(parents=True)
        for name, text in (("level", str(level)), ("size", size), ("shared_cpu_list", shared)):
            (place / name).write_text(text + "\n")


def test_last_level_caches_are_counted_once_each(tmp_path: Path) -> None:
    for number in range(4):
        half = "0-1" if number < 2 else "2-3"
        _cpu(tmp_path, number, (1, "32K", str(number)), (2, "512K", str(number)), (3, "16384K", half))
    assert cache_bytes(tmp_path) == 2 * (16 << 20)


def test_caches_that_are_not_shown_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cpu(tmp_path, 0, (3, "odd", "0"))
    assert cache_bytes(tmp_path) is None
    monkeypatch.setattr(module, "cache_bytes", lambda: None)
    assert memory_roof.__wrapped__() is None


def test_reading_is_measured_with_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 << 20)
    monkeypatch.setattr(module, "cache_bytes", lambda: 1 << 20)
    roof = memory_roof.__wrapped__()
    assert roof is not None
    assert roof.threads >= 1
    assert 1e8 < roof.read_bps < 1e13
