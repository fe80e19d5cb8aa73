"""NVML through bindings that stand for NVIDIA's: two GPUs whose numbers are known."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pynvml
import pytest

from harness.measure.machine.nvml import GpuReading, Gpus
from harness.measure.machine.sampler import ResourceSampler


class Nvml:
    """The calls of pynvml that are made, for two GPUs; `refused` are those that the second GPU does not support."""

    def __init__(
        self,
        init_error: type[pynvml.NVMLError] | None = None,
        refused: str = "",
        count: int = 2,
        uuids: tuple[str | None, ...] = ("GPU-a", "GPU-b"),
    ) -> None:
        self._init_error, self._refused, self._count, self._uuids = init_error, refused, count, uuids
        self._energy_mj = 5000
        self.is_shut_down = False

    def nvmlInit(self) -> None:
        if self._init_error is not None:
            raise self._init_error()

    def nvmlShutdown(self) -> None:
        if self._init_error is not None:
            raise pynvml.NVMLError_Uninitialized()
        self.is_shut_down = True

    def nvmlDeviceGetCount(self) -> int:
        return self._count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, gpu: int) -> str:
        if (uuid := self._uuids[gpu]) is None:
            raise pynvml.NVMLError_NotSupported()
        return uuid

    def nvmlDeviceGetName(self, gpu: int) -> str:
        return "Test GPU"

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(used=(gpu + 1) * (100 << 20), total=(gpu + 1) * (1000 << 20))

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=80 if gpu else 0)

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return 75500

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        if gpu and self._refused == "energy":
            raise pynvml.NVMLError_NotSupported()
        self._energy_mj += 1000
        return self._energy_mj

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def nvmlDeviceGetPowerManagementLimit(self, gpu: int) -> int:
        return 700_000

    def nvmlDeviceGetMigMode(self, gpu: int) -> list[int]:
        if gpu and self._refused == "mig":
            raise pynvml.NVMLError_NotSupported()
        return [0, 1]  # now, and after the next reset

    def nvmlDeviceGetEccMode(self, gpu: int) -> list[int]:
        return [1, 1]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: int) -> int:
        return 0x44 if gpu else 1


def test_the_facts_of_the_gpus_are_what_moves_a_result() -> None:
    facts = {
        "gpu_models": ["Test GPU", "Test GPU"], "gpu_driver": "580.65.06", "gpu_power_limit_w": [700.0, 700.0],
        "gpu_memory_mib": [1000, 2000], "gpu_mig": [0, 0], "gpu_ecc": [1, 1],
    }  # fmt: skip
    with Gpus(Nvml()) as gpus:
        assert gpus.facts() == facts
    with Gpus(Nvml(refused="mig")) as gpus:
        assert gpus.facts() == {**facts, "gpu_mig": [0, None]}
    with Gpus(Nvml(count=0)) as gpus:
        assert gpus.facts() == {}


def test_memory_and_power_are_sums_and_utilisation_is_the_busiest() -> None:
    nvml = Nvml()
    with Gpus(nvml) as gpus:
        reading = gpus.read()
        assert gpus.names == ("Test GPU", "Test GPU")
        assert gpus.slowdowns() == ("power cap", "thermal")
    assert gpus.unavailable == ""
    assert nvml.is_shut_down
    assert reading == GpuReading(memory_mib=300.0, util_frac=0.8, power_w=151.0, energy_j=13.0)


def test_a_number_one_gpu_refuses_is_none_not_half_a_sum() -> None:
    with Gpus(Nvml(refused="energy")) as gpus:
        reading = gpus.read()
    assert reading is not None
    assert reading.energy_j is None
    assert reading.power_w == 151.0


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (Nvml(pynvml.NVMLError_LibraryNotFound), "no NVIDIA driver here (NVML Shared Library Not Found)"),
        (
            Nvml(pynvml.NVMLError_DriverNotLoaded),
            "NVML does not start (Driver Not Loaded); is the driver loaded and /dev/nvidia* visible?",
        ),
        (Nvml(count=0), "the NVIDIA driver sees no GPU"),
    ],
)
def test_a_gpu_that_cannot_be_read_says_why(nvml: Nvml, reason: str) -> None:
    with Gpus(nvml) as gpus:
        assert gpus.read() is None
        assert gpus.names == ()
        assert gpus.slowdowns() == ()
    assert gpus.unavailable == reason


def test_the_bindings_have_every_call_that_is_made() -> None:
    for name in (name for name in dir(Nvml) if name.startswith("nvml")):
        assert callable(getattr(pynvml, name)), name


def test_the_sampler_reports_gpus_over_the_window_and_as_a_series() -> None:
    begin_ns = time.monotonic_ns()
    with ResourceSampler(lambda: (os.getpid(),), 0.001, gpus=Gpus(Nvml())) as sampler:
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
