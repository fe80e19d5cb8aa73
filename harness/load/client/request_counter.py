"""The counter that numbers requests across all users of all load processes."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Tickets:
    """Hands out 0, 1, ... total-1, each once, then None. Shared between processes through a locked 8-byte file."""

    def __init__(self, path: Path, total: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._total = total

    def take(self) -> int | None:
        """The next number; a few microseconds."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            number = int.from_bytes(os.pread(self._fd, 8, 0), "little")
            if number >= self._total:
                return None
            os.pwrite(self._fd, (number + 1).to_bytes(8, "little"), 0)
            return number
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)
