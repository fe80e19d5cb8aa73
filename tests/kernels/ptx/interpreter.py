"""The PTX interpreter from Python: built by CMake on first use, driven through the CUDA driver's own functions."""

from __future__ import annotations

import ctypes as c
import fcntl
import shutil
import subprocess
from pathlib import Path

from tests.kernels.cuda.sim import BUILD, Sim, tool

SOURCE = Path(__file__).parent / "machine"


def build() -> Path:
    """The interpreter library, up to date. One process builds at a time; others wait."""
    into = BUILD / "ptx-machine"
    into.mkdir(parents=True, exist_ok=True)
    with (into / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = [tool("cmake"), "-S", str(SOURCE), "-B", str(into), "-G", "Ninja"]
        ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
        for command in ([*configure, ninja], [tool("cmake"), "--build", str(into)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return into / "libptx_machine.so"


def private_copy(folder: Path, name: str = "libptx_machine.so") -> Path:
    """A copy to load beside others: one library holds one module, and the loader keeps one library per file."""
    to = folder / name
    shutil.copyfile(build(), to)
    return to


class PtxMachine(Sim):
    """A loaded interpreter holding one module. Raises ValueError when the text cannot be read."""

    def __init__(self, library: Path, text: str) -> None:
        super().__init__(library)
        for name in ("ptx_load", "ptx_unknown", "ptx_missed"):
            getattr(self.lib, name).restype = c.c_char_p
        self.lib.ptx_length.restype = c.c_size_t
        self.lib.ptx_steps.restype = c.c_ulonglong
        self.load(text)

    def load(self, text: str) -> None:
        """Replace the module."""
        said = self.lib.ptx_load(text.encode()).decode()
        if said:
            raise ValueError(said)

    def unknown(self) -> list[str]:
        """Instructions that this machine does not know, with kernel and line. A launch of such a kernel is refused."""
        return list(self.lib.ptx_unknown().decode().splitlines())

    def missed(self, kernel: str) -> list[str]:
        """Instructions of a kernel that no launch has executed yet."""
        return list(self.lib.ptx_missed(kernel.encode()).decode().splitlines())

    def length(self, kernel: str) -> int:
        return int(self.lib.ptx_length(kernel.encode()))

    def steps(self) -> int:
        """Instructions executed since the library was loaded, all threads together."""
        return int(self.lib.ptx_steps())

    def noise(self, seed: int) -> None:
        """Approximate instructions err at random as far as the PTX manual allows; 0: correctly rounded."""
        self.lib.ptx_set_noise(c.c_ulonglong(seed))

    def limit(self, steps: int) -> None:
        """Instructions after which a block is given up; 0: two thousand million."""
        self.lib.ptx_set_limit(c.c_ulonglong(steps))
