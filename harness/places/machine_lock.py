"""The lock on a machine: whoever measures there holds it, whichever cluster placed the trial.

A lock file in the temporary folder, named by the machine's id; the kernel releases it when its holder ends, however
that one ends. Containers that share no temporary folder cannot see each other's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.2


@contextmanager
def machine_lock(machine_id: str, folder: Path | None = None) -> Iterator[None]:
    """Waits until nobody else measures on this machine, then keeps others out."""
    held = _open(machine_id, folder)
    try:
        while not _is_taken(held):
            time.sleep(POLL_S)
        with contextlib.suppress(OSError):  # another user's file, opened for reading
            os.pwrite(held, f"{os.getpid():<10}\n".encode(), 0)
        yield
    finally:
        os.close(held)


def holder(machine_id: str, folder: Path | None = None) -> str:
    """'' while nobody measures on this machine; else the holder's process id, or 'unknown'."""
    looked = _open(machine_id, folder)
    try:
        if _is_taken(looked, fcntl.LOCK_SH):  # shared: two that look do not see each other
            return ""
        return os.pread(looked, 32, 0).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(looked)


def _open(machine_id: str, folder: Path | None) -> int:
    """A descriptor of the lock file. Another user's may be locked though not written."""
    path = (folder or Path(tempfile.gettempdir())) / f"dyno-machine-{machine_id}.lock"
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def _is_taken(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
