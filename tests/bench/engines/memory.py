"""Peak memory of this process."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Largest resident set since this program began (VmHWM in proc(5)). getrusage's ru_maxrss would not do: it starts
    from what the process that forked this one had resident."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no line VmHWM")
