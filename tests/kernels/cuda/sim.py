"""The simulator from Python: built by CMake on first use, driven through the CUDA driver's own functions."""

from __future__ import annotations

import ctypes as c
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]
BUILD = ROOT / "build"


class LaunchFailed(Exception):
    """A kernel broke a rule of CUDA; the message says which and where."""


def tool(name: str) -> str:
    """A build tool of this interpreter's environment, else of the system."""
    here = Path(sys.executable).parent / name
    return str(here) if here.exists() else shutil.which(name) or name


def build(folder: str = "cuda-sim", *options: str) -> Path:
    """The simulator library, up to date. One process builds at a time; others wait."""
    into = BUILD / folder
    into.mkdir(parents=True, exist_ok=True)
    with (into / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = [tool("cmake"), "-S", str(ROOT / "kernels/sim"), "-B", str(into), "-G", "Ninja"]
        ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
        for command in ([*configure, ninja, *options], [tool("cmake"), "--build", str(into)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return into / "libcuda_sim.so"


class Sim:
    """One loaded simulator. Arrays go up as they are; a launch is synchronous unless `waits` is False."""

    def __init__(self, library: Path) -> None:
        self.lib = c.CDLL(str(library), mode=os.RTLD_LOCAL)
        self.lib.sim_last_error.restype = c.c_char_p
        self.lib.sim_kernel_name.restype = c.c_char_p
        for name in ("sim_job_bytes", "sim_allocations", "sim_launches"):
            getattr(self.lib, name).restype = c.c_size_t
        self.module, self.context = c.c_void_p(), c.c_void_p()
        self.call("cuInit", 0)
        self.call("cuModuleLoadData", c.byref(self.module), b"")
        self._memory: list[c.c_uint64] = []

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self.lib, name)(*arguments)
        if code:
            raise LaunchFailed(self.lib.sim_last_error().decode() or f"{name} returned {code}")

    def empty(self, size_bytes: int) -> int:
        """Device memory full of NaN."""
        memory = c.c_uint64()
        self.call("cuMemAlloc_v2", c.byref(memory), c.c_size_t(size_bytes))
        self._memory.append(memory)
        assert memory.value
        return memory.value

    def up(self, array: np.ndarray) -> int:
        array = np.ascontiguousarray(array)
        memory = self.empty(array.nbytes)
        self.call(
            "cuMemcpyHtoDAsync_v2", c.c_uint64(memory), c.c_void_p(array.ctypes.data), c.c_size_t(array.nbytes), None
        )
        self.call("cuStreamSynchronize", None)
        return memory

    def down(self, memory: int, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        array = np.empty(shape, dtype)
        self.call(
            "cuMemcpyDtoHAsync_v2", c.c_void_p(array.ctypes.data), c.c_uint64(memory), c.c_size_t(array.nbytes), None
        )
        self.call("cuStreamSynchronize", None)
        return array

    def function(self, name: str) -> c.c_void_p:
        function = c.c_void_p()
        self.call("cuModuleGetFunction", c.byref(function), self.module, name.encode())
        return function

    def launch(
        self,
        kernel: str,
        job: c.Structure,
        *,
        grid: tuple[int, ...],
        threads: int,
        shared: int = 0,
        stream: c.c_void_p | None = None,
    ) -> None:
        """Runs a kernel and waits, unless a stream is given. Raises LaunchFailed."""
        if c.sizeof(job) != self.job_bytes(kernel):
            raise TypeError(f"{kernel}: not in this library, or its record has another size")
        arguments = (c.c_void_p * 1)(c.cast(c.byref(job), c.c_void_p))
        size = (*grid, 1, 1)[:3]
        self.call("cuLaunchKernel", self.function(kernel), *size, threads, 1, 1, shared, stream, arguments, None)
        if stream is None:
            self.call("cuStreamSynchronize", None)

    def job_bytes(self, kernel: str) -> int:
        """Size of the record this kernel takes, 0 for a kernel that is not there."""
        return int(self.lib.sim_job_bytes(kernel.encode()))

    def order(self, seed: int) -> None:
        """Lanes and blocks run 0: upwards, 1: downwards, else at random; odd: one warp as far ahead as it may."""
        self.lib.sim_set_order(c.c_uint64(seed))

    def forget_errors(self) -> None:
        self.lib.sim_reset()

    def reset(self) -> None:
        """Errors forgotten, all memory freed."""
        self.forget_errors()
        for memory in self._memory:
            self.call("cuMemFree_v2", memory)
        self._memory.clear()

    def kernels(self) -> list[str]:
        names: list[str] = []
        while name := self.lib.sim_kernel_name(c.c_size_t(len(names))):
            names.append(name.decode())
        return sorted(names)
