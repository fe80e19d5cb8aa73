"""Signs that a child process ran out of memory, in its log and in the kernel's counters."""

from __future__ import annotations

import re
from pathlib import Path

_SIGNS = re.compile(
    r"MemoryError|OutOfMemory|OUT_OF_MEMORY|out of memory|bad_alloc|(cannot|can't|failed to) allocate memory",
    re.IGNORECASE,
)
"""What Python, C++, Java, CUDA, torch and the kernel print. The one list of such signs: add here."""


def shows_out_of_memory(text: str) -> bool:
    """Whether a log, or a reason that somebody else's program gave, has a sign that memory ran out."""
    return _SIGNS.search(text) is not None


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where that is unknown."""
    try:
        fields = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("oom_kill", 0))
