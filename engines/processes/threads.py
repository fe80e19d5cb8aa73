"""The number of compute threads that one worker process gets."""

from __future__ import annotations

import os

from engines.api import EngineSpec


def usable_cores() -> int:
    """Cores this process may run on (its affinity mask, not the machine's count)."""
    return len(os.sched_getaffinity(0))


def compute_threads(spec: EngineSpec) -> int:
    """`spec.threads`, else an equal share of the cores, at least 1."""
    return spec.threads if spec.threads is not None else max(1, usable_cores() // spec.workers)
