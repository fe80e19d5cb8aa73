"""RAPL counters as files: packages and their memory add up, wrapping included."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.measure.machine.rapl import CpuEnergy


def _domain(root: Path, name: str, kind: str, energy_uj: int) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(kind + "\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")
    return folder


def test_packages_and_dram_count_and_cores_do_not(tmp_path: Path) -> None:
    package = _domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    core = _domain(tmp_path, "intel-rapl:0:0", "core", 0)
    dram = _domain(tmp_path, "intel-rapl:0:1", "dram", 0)
    energy = CpuEnergy(tmp_path)
    for folder, value in ((package, 4_000_000), (core, 2_000_000), (dram, 500_000)):
        (folder / "energy_uj").write_text(str(value))
    assert energy.total_j() == pytest.approx(3.5)
    (package / "energy_uj").write_text("1000000")  # wrapped at 10 J: 7 J more
    assert energy.total_j() == pytest.approx(10.5)
    assert energy.unavailable == ""


def test_a_machine_without_counters_says_so_and_gives_none(tmp_path: Path) -> None:
    energy = CpuEnergy(tmp_path)
    assert energy.total_j() is None
    assert "no RAPL counter" in energy.unavailable


def test_a_counter_that_vanishes_gives_none_and_the_reason(tmp_path: Path) -> None:
    package = _domain(tmp_path, "intel-rapl:0", "package-0", 0)
    energy = CpuEnergy(tmp_path)
    (package / "energy_uj").unlink()
    assert energy.total_j() is None
    assert "energy_uj" in energy.unavailable
