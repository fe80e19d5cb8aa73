"""The rate at which this machine's cores read memory together, and the size of their caches."""

from __future__ import annotations

import mmap
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from harness.units import BYTES_PER_MIB

PASSES = 8
"""The best of them counts: what else runs can only slow one down."""
BLOCK_BYTES = 256 * BYTES_PER_MIB
CACHES = 4
"""At least so many times what the caches hold is read, so that none of it comes from there."""
_CPU = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRoof:
    """Bytes a second that `threads` threads read together."""

    read_bps: float
    threads: int


def cache_bytes(cpu: Path = _CPU) -> int | None:
    """Bytes of the last-level caches of this machine, each counted once; None where it does not show them."""
    found: dict[tuple[int, str], int] = {}
    for index in cpu.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, shared = int((index / "level").read_text()), (index / "shared_cpu_list").read_text().strip()
            size = re.fullmatch(r"(\d+)K", (index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if size is not None:
            found[level, shared] = int(size[1]) << 10
    last = max((level for level, _ in found), default=None)
    return None if last is None else sum(size for (level, _), size in found.items() if level == last)


@cache
def memory_roof() -> MemoryRoof | None:
    """Measured once, in less than a second on an idle machine, with a thread for each core that may be used; None where
    the size of the caches is not known."""
    caches = cache_bytes()
    if caches is None:
        return None
    size, threads = max(BLOCK_BYTES, CACHES * caches), len(os.sched_getaffinity(0))
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block, ThreadPoolExecutor(threads) as pool:
        block.madvise(mmap.MADV_HUGEPAGE)
        values = np.frombuffer(block, dtype=np.int64)
        values[:] = 1
        parts, took_s = np.array_split(values, threads), list[float]()
        for _ in range(PASSES):
            begin = time.perf_counter()
            list(pool.map(np.sum, parts))  # releases the interpreter's lock
            took_s.append(time.perf_counter() - begin)
        del values, parts
    return MemoryRoof(read_bps=size / min(took_s), threads=threads)
