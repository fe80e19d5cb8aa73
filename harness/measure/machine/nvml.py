"""Memory, utilisation, power and energy of this machine's NVIDIA GPUs, read through NVIDIA's own bindings of NVML.

All GPUs of the machine, or those that CUDA_VISIBLE_DEVICES names by UUID, are read together: memory and power are
sums, utilisation is that of the busiest GPU (the mean over eight would call an engine on one of them idle).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from harness.units import BYTES_PER_MIB

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """The GPUs at one moment. `energy_j` counts since the driver was loaded; a field is None where a GPU refuses it."""

    memory_mib: float | None
    util_frac: float | None
    power_w: float | None
    energy_j: float | None


class Gpus:
    """The GPUs of this machine, or `unavailable`: why they cannot be read. A context manager."""

    def __init__(self, nvml: Any = pynvml) -> None:
        """`nvml`: the bindings, or what stands for them in a test."""
        self.unavailable = ""
        self._nvml = nvml
        self._handles: list[Any] = []
        try:
            nvml.nvmlInit()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            named = tuple(each for each in os.environ.get(VISIBLE, "").split(",") if each.startswith("GPU-"))
            if named:
                seen = zip(self._handles, self.uuids, strict=True)
                self._handles = [handle for handle, uuid in seen if uuid is not None and uuid.startswith(named)]
        except pynvml.NVMLError_LibraryNotFound as error:
            self.unavailable = f"no NVIDIA driver here ({error})"
        except pynvml.NVMLError as error:
            self.unavailable = f"NVML does not start ({error}); is the driver loaded and /dev/nvidia* visible?"
        if not self._handles and not self.unavailable:
            self.unavailable = "the NVIDIA driver sees no GPU"

    def __enter__(self) -> Gpus:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(pynvml.NVMLError):
            self._nvml.nvmlShutdown()
        self._handles = []

    @property
    def names(self) -> tuple[str, ...]:
        """The model of each GPU."""
        return tuple("unknown" if name is None else str(name) for name in self._each(self._nvml.nvmlDeviceGetName))

    @property
    def uuids(self) -> tuple[str | None, ...]:
        """The UUID of each GPU, None where it has none."""
        return tuple(self._each(self._nvml.nvmlDeviceGetUUID))

    def facts(self) -> dict[str, object]:
        """What the GPUs are, as machine facts, in NVML's order; empty without a GPU.

        The driver and each GPU's model, memory, power limit (W), MIG and ECC mode (1: on), None where a GPU has no
        such value.
        """
        if not self._handles:
            return {}
        nvml = self._nvml
        try:
            driver = str(nvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError:
            driver = "unknown"
        return {
            "gpu_models": list(self.names),
            "gpu_driver": driver,
            "gpu_memory_mib": self._each(lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total // BYTES_PER_MIB),
            "gpu_power_limit_w": self._each(lambda gpu: nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1e3),
            "gpu_mig": self._each(lambda gpu: nvml.nvmlDeviceGetMigMode(gpu)[0]),
            "gpu_ecc": self._each(lambda gpu: nvml.nvmlDeviceGetEccMode(gpu)[0]),
        }

    def read(self) -> GpuReading | None:
        """All GPUs together, now; None when there is nothing to read."""
        if not self._handles:
            return None
        nvml = self._nvml
        return GpuReading(
            memory_mib=_sum(self._each(lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used / BYTES_PER_MIB)),
            util_frac=_largest(self._each(lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)),
            power_w=_sum(self._each(lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3)),
            energy_j=_sum(self._each(lambda gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3)),
        )

    def slowdowns(self) -> tuple[str, ...]:
        """Why clocks are held down now, over all GPUs ('power cap', 'thermal', ...); empty when they are not."""
        reasons = self._each(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return tuple(sorted({name for bits in reasons for bit, name in _SLOWDOWNS.items() if bits and bits & bit}))

    def _each(self, read: Callable[[Any], Any]) -> list[Any]:
        """What each GPU answers; None where it refuses (some do not know some numbers, nor does a MIG slice)."""
        answers: list[Any] = []
        for handle in self._handles:
            try:
                answers.append(read(handle))
            except pynvml.NVMLError:
                answers.append(None)
        return answers


_SLOWDOWNS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal", 0x40: "thermal", 0x80: "power brake"}
"""Bits of nvmlClocksThrottleReasons: SwPowerCap, HwSlowdown, SwThermal, HwThermal, HwPowerBrake."""


def _sum(values: list[float | None]) -> float | None:
    """None when one is missing: a sum over some of the GPUs would look like all of them."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _largest(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
