"""The same cases on a real device: libcuda by name, kernels by NVRTC or nvcc for the device's own architecture."""

from __future__ import annotations

import ctypes as c
import os

from engines.t5 import cuda
from tests.kernels.cuda import compilers, jobs
from tests.kernels.cuda.sim import LaunchFailed, Sim

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def missing() -> str:
    """What stands between this machine and a GPU run, or ''."""
    try:
        driver = c.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver: libcuda.so.1 is not installed"
    count = c.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(c.byref(count)) or not count.value:
        return "the CUDA driver finds no device"
    return "" if compilers.nvrtc_library() or compilers.nvcc() else "neither NVRTC nor nvcc to compile the kernels with"


def count() -> int:
    """Real GPUs that the driver shows; 0 without a driver."""
    if missing():
        return 0
    found = c.c_int(0)
    c.CDLL("libcuda.so.1").cuDeviceGetCount(c.byref(found))
    return found.value


class Gpu(Sim):
    """A device behind the interface of Sim. `library` may also be the simulator: then this very code is exercised."""

    def __init__(self, library: str = "libcuda.so.1") -> None:
        self.lib = c.CDLL(library, mode=os.RTLD_LOCAL)
        self.module, self.context = c.c_void_p(), c.c_void_p()
        self._memory: list[c.c_uint64] = []
        device = c.c_int()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", c.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", c.byref(self.context), device)
        self.call("cuCtxSetCurrent", self.context)
        image = (
            cuda.target("cuda").image if library == cuda.DRIVER else self._cubin(device)
        )  # the first is kept in a cache
        self.call("cuModuleLoadData", c.byref(self.module), image)

    def _cubin(self, device: c.c_int) -> bytes:
        version = [c.c_int(), c.c_int()]
        for value, attribute in zip(version, (MAJOR, MINOR), strict=True):
            self.call("cuDeviceGetAttribute", c.byref(value), attribute, device)
        arch = version[0].value * 10 + version[1].value
        nvrtc = compilers.nvrtc_library()
        return compilers.nvrtc_compile(nvrtc, arch)[0] if nvrtc else compilers.nvcc_cubin(arch)

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self.lib, name)(*arguments)
        if code:
            text = c.c_char_p()
            self.lib.cuGetErrorString(code, c.byref(text))
            raise LaunchFailed(f"{name}: {(text.value or b'unknown error').decode()}")

    def empty(self, size_bytes: int) -> int:
        memory = super().empty(size_bytes)
        self.call("cuMemsetD8Async", c.c_uint64(memory), 0xFF, c.c_size_t(size_bytes), None)
        return memory

    def job_bytes(self, kernel: str) -> int:
        return c.sizeof(jobs.KERNELS[kernel])

    def order(self, seed: int) -> None:
        """A device has an order of its own."""

    def forget_errors(self) -> None:
        """A device's errors are for good."""
