"""The lock on a machine: whoever measures there holds it, whichever cluster placed the trial.

A lock file in the temporary folder, named by the machine's id; the kernel releases it when its holder ends, however
that one ends. Containers that share no temporary folder cannot see each other's. A part of a split machine has another
file, and keeps out whoever measures on the whole machine or on a part of another split.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.2
_PART = re.compile(r"(.+)\.\d+of(\d+)")


@contextmanager
def machine_lock(machine_id: str, folder: Path | None = None) -> Iterator[None]:
    """Waits until nobody else measures on this machine, or part of one, then keeps others out.

    Who waits holds the machine's gate, and whoever comes later waits there: else the whole machine would never be free
    while parts of it are taken again and again."""
    path = _path(machine_id, folder)
    gate, held = _open(path.with_name(f"{_split(path)[0]}.gate")), _open(path)
    try:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            while any(map(_holder, _excluding(path))) or not _is_taken(held):
                time.sleep(POLL_S)
        finally:
            os.close(gate)
        with contextlib.suppress(OSError):  # another user's file, opened for reading
            os.pwrite(held, f"{os.getpid():<10}\n".encode(), 0)
        yield
    finally:
        os.close(held)


def holder(machine_id: str, folder: Path | None = None) -> str:
    """'' while nobody keeps this machine or part; else the holder's process id, or 'unknown'."""
    path = _path(machine_id, folder)
    return next(filter(None, map(_holder, (path, *_excluding(path)))), "")


def _path(machine_id: str, folder: Path | None) -> Path:
    return (folder or Path(tempfile.gettempdir())) / f"dyno-machine-{machine_id}.lock"


def _split(path: Path) -> tuple[str, str]:
    """The whole machine of a lock file, and into how many parts it is split there, '' where it is not."""
    found = _PART.fullmatch(path.stem)
    return (found[1], found[2]) if found else (path.stem, "")


def _excluding(path: Path) -> list[Path]:
    """The other files whose holders may not measure beside that of `path`."""
    machine, count = _split(path)
    files = path.parent.glob(f"{glob.escape(machine)}.*lock")
    return [each for each in files if _split(each)[0] == machine and _split(each)[1] != count]


def _holder(path: Path) -> str:
    looked = _open(path)
    try:
        if _is_taken(looked, fcntl.LOCK_SH):  # shared: two that look do not see each other
            return ""
        return os.pread(looked, 32, 0).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(looked)


def _open(path: Path) -> int:
    """A descriptor of the lock file. Another user's may be locked though not written."""
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
