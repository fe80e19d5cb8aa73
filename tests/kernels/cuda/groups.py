"""Engines over several simulated GPUs, and what the simulator counts of them."""

from __future__ import annotations

import ctypes as c
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.kernels.cuda.sim import Sim


class Live(NamedTuple):
    """What exists on all simulated devices together."""

    allocations: int
    streams: int
    events: int
    graphs: int
    modules: int
    contexts: int


def live(sim: Sim) -> Live:
    six = (c.c_size_t * 6)()
    sim.lib.sim_live(six)
    return Live(*six)


@contextmanager
def devices(sim: Sim, count: int, *, peers: bool = True, schedule: int = 0) -> Iterator[None]:
    """`count` GPUs for the engines loaded inside, peers or not, streams taking turns as `schedule` says."""
    sim.lib.sim_pretend(count, 80, 13000)
    sim.lib.sim_set_peers(int(peers))
    sim.lib.sim_set_schedule(c.c_ulonglong(schedule))
    try:
        yield
    finally:
        sim.forget_errors()
        sim.lib.sim_pretend(1, 80, 13000)
        sim.lib.sim_set_peers(1)
        sim.lib.sim_set_schedule(c.c_ulonglong(0))
        sim.lib.sim_set_capacity(c.c_size_t(1 << 40))


def fake_nccl(folder: Path) -> Path:
    """fake_nccl.cpp as a library: it works on the simulator that T5K_CUDA_SIM names."""
    return _fake(folder / "libnccl.so.2", "fake_nccl.cpp")


def fake_cublaslt(folder: Path) -> Path:
    """The same of fake_cublaslt.cpp."""
    return _fake(folder / "libcublasLt.so.13", "fake_cublaslt.cpp")


def _fake(library: Path, name: str) -> Path:
    source = Path(__file__).with_name(name)
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-o", str(library), str(source)]
    done = subprocess.run([*command, "-ldl"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library
