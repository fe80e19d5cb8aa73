"""Memory, utilisation, power and energy of this machine's NVIDIA GPUs, read through NVML by name.

NVML (libnvidia-ml.so.1) comes with the driver; ctypes reaches it without a package. All GPUs of the machine are read
together: memory and power are sums, utilisation is that of the busiest GPU (the mean over eight would call an engine on
one of them idle). Source of the calls and structures: NVIDIA's nvml.h.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from harness.units import BYTES_PER_MIB

LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """The GPUs at one moment. `energy_j` counts since the driver was loaded; a field is None where a GPU refuses it."""

    memory_mib: float | None
    util_frac: float | None
    power_w: float | None
    energy_j: float | None


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Gpus:
    """The GPUs of this machine, or `unavailable`: why they cannot be read. A context manager."""

    def __init__(self, library: str = LIBRARY) -> None:
        self.unavailable = ""
        self._handles: list[ctypes.c_void_p] = []
        self._nvml: ctypes.CDLL | None = None
        try:
            self._nvml = ctypes.CDLL(library)
            self._open(self._nvml)
        except (OSError, AttributeError) as error:
            self.unavailable = f"no NVIDIA driver here ({error})"
        if not self._handles and not self.unavailable:
            self.unavailable = "the NVIDIA driver sees no GPU"

    def __enter__(self) -> Gpus:
        return self

    def __exit__(self, *_: object) -> None:
        if self._nvml is not None:
            with contextlib.suppress(AttributeError):
                self._nvml.nvmlShutdown()
            self._nvml = None
        self._handles = []

    @property
    def names(self) -> tuple[str, ...]:
        """The model of each GPU."""
        return tuple(self._name(handle) for handle in self._handles)

    def read(self) -> GpuReading | None:
        """All GPUs together, now; None when there is nothing to read."""
        if not self._handles:
            return None
        return GpuReading(
            memory_mib=_sum(self._each(self._memory_mib)),
            util_frac=_largest(self._each(self._util_frac)),
            power_w=_sum(self._each(self._power_w)),
            energy_j=_sum(self._each(self._energy_j)),
        )

    def slowdowns(self) -> tuple[str, ...]:
        """Why clocks are held down now, over all GPUs ('power cap', 'thermal', ...); empty when they are not."""
        found: set[str] = set()
        for handle in self._handles:
            bits = ctypes.c_ulonglong()
            if self._ok("nvmlDeviceGetCurrentClocksThrottleReasons", handle, ctypes.byref(bits)):
                found |= {name for bit, name in _SLOWDOWNS.items() if bits.value & bit}
        return tuple(sorted(found))

    def _open(self, nvml: ctypes.CDLL) -> None:
        if (status := nvml.nvmlInit_v2()) != 0:
            self.unavailable = f"NVML does not start (status {status}); is the driver loaded and /dev/nvidia* visible?"
            return
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                self._handles.append(handle)

    def _ok(self, call: str, *arguments: object) -> bool:
        """Whether the call exists and says NVML_SUCCESS; many answer 'not supported' on some GPU or in a MIG slice."""
        try:
            return bool(getattr(self._nvml, call)(*arguments) == 0)
        except AttributeError:
            return False

    def _each(self, read: Callable[[ctypes.c_void_p], float | None]) -> list[float | None]:
        return [read(handle) for handle in self._handles]

    def _name(self, handle: ctypes.c_void_p) -> str:
        text = ctypes.create_string_buffer(96)  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
        is_known = self._ok("nvmlDeviceGetName", handle, text, 96)
        return text.value.decode("ascii", "replace") if is_known else "unknown"

    def _memory_mib(self, handle: ctypes.c_void_p) -> float | None:
        memory = _Memory()
        is_known = self._ok("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return memory.used / BYTES_PER_MIB if is_known else None

    def _util_frac(self, handle: ctypes.c_void_p) -> float | None:
        share = _Utilization()
        is_known = self._ok("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(share))
        return share.gpu / 100 if is_known else None

    def _power_w(self, handle: ctypes.c_void_p) -> float | None:
        milliwatts = ctypes.c_uint()
        is_known = self._ok("nvmlDeviceGetPowerUsage", handle, ctypes.byref(milliwatts))
        return milliwatts.value / 1e3 if is_known else None

    def _energy_j(self, handle: ctypes.c_void_p) -> float | None:
        millijoules = ctypes.c_ulonglong()
        is_known = self._ok("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(millijoules))
        return millijoules.value / 1e3 if is_known else None


_SLOWDOWNS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal", 0x40: "thermal", 0x80: "power brake"}
"""Bits of nvmlClocksThrottleReasons: SwPowerCap, HwSlowdown, SwThermal, HwThermal, HwPowerBrake."""


def _sum(values: list[float | None]) -> float | None:
    """None when one is missing: a sum over some of the GPUs would look like all of them."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _largest(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
