"""NVML through a library of the same C interface, compiled here: two GPUs whose numbers are known."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness.measure.machine.nvml import GpuReading, Gpus
from harness.measure.machine.sampler import ResourceSampler

NVML = """
#include <stddef.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } share_t;
static size_t gpus[2] = {0, 1};
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = &gpus[i]; return 0; }
int nvmlDeviceGetName(void *h, char *s, unsigned n) { strncpy(s, "Test GPU", n); return 0; }
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) { m->used = (*(size_t *)h + 1) * (100ull << 20); return 0; }
int nvmlDeviceGetUtilizationRates(void *h, share_t *u) { u->gpu = *(size_t *)h ? 80 : 0; return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { *mw = 75500; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *mj) {
  static unsigned long long at = 5000; *mj = at += 1000; return *(size_t *)h ? ENERGY : 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, unsigned long long *r) {
  *r = *(size_t *)h ? 0x44 : 1; return 0; }
"""


def _library(folder: Path, init: int = 0, energy: int = 0) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the test's NVML with")
    source, library = folder / "nvml.c", folder / "libnvml.so"
    source.write_text(NVML)
    argv = ["gcc", "-shared", "-fPIC", "-w", f"-DINIT={init}", f"-DENERGY={energy}", str(source), "-o", str(library)]
    subprocess.run(argv, check=True)
    return str(library)


def test_memory_and_power_are_sums_and_utilisation_is_the_busiest(tmp_path: Path) -> None:
    with Gpus(_library(tmp_path)) as gpus:
        reading = gpus.read()
        assert gpus.names == ("Test GPU", "Test GPU")
        assert gpus.slowdowns() == ("power cap", "thermal")
    assert gpus.unavailable == ""
    assert reading == GpuReading(memory_mib=300.0, util_frac=0.8, power_w=151.0, energy_j=13.0)


def test_a_number_one_gpu_refuses_is_none_not_half_a_sum(tmp_path: Path) -> None:
    with Gpus(_library(tmp_path, energy=3)) as gpus:  # NVML_ERROR_NOT_SUPPORTED
        reading = gpus.read()
    assert reading is not None
    assert reading.energy_j is None
    assert reading.power_w == 151.0


@pytest.mark.parametrize("library", ["missing.so", "starts not"])
def test_a_gpu_that_cannot_be_read_says_why(library: str, tmp_path: Path) -> None:
    path = _library(tmp_path, init=9) if library == "starts not" else str(tmp_path / library)
    with Gpus(path) as gpus:
        assert gpus.read() is None
    assert ("status 9" in gpus.unavailable) or ("no NVIDIA driver" in gpus.unavailable)


def test_the_sampler_reports_gpus_over_the_window_and_as_a_series(tmp_path: Path) -> None:
    begin_ns = time.monotonic_ns()
    with ResourceSampler(lambda: (os.getpid(),), 0.001, gpus=Gpus(_library(tmp_path))) as sampler:
        while len(sampler.telemetry()["t_ns"]) < 3:
            pass
    end_ns = time.monotonic_ns()
    use, series = sampler.use(begin_ns, end_ns, client_cpu_s=0.0), sampler.telemetry()
    assert (use.gpu_memory_mib, use.gpu_util_frac, use.gpu_power_w) == (300.0, pytest.approx(0.8), pytest.approx(151.0))
    assert use.energy_j is not None
    assert use.energy_j > 0
    assert "GPUs" in use.energy_of
    assert not any("GPU" in reason for reason in use.unavailable)
    assert set(series["gpu_power_w"]) == {151.0}
    assert len({len(column) for column in series.values()}) == 1
    times = [value for value in series["t_ns"] if value is not None]
    assert times == sorted(times)
