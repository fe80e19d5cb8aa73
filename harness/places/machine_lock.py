"""The lock on a machine: whoever measures there holds it, whichever cluster placed the trial.

A lock file in the temporary folder, named by the machine's id; the kernel releases it when its holder ends, however
that one ends. Containers that share no temporary folder cannot see each other's. A part of a split machine has another
file for each search, and keeps out whoever measures on the whole machine, on a part of another split, or for another
search: only what one search launches is known not to slow the parts down.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

POLL_S = 0.2
_PART = re.compile(r"(.+)\.\d+of(\d+(-\w+)?)")


@contextmanager
def machine_lock(machine_id: str, search: str = "", folder: Path | None = None) -> Iterator[None]:
    """Waits until nobody else measures on this machine, or part of one, then keeps others out; on other parts `search`
    may measure meanwhile.

    Who waits holds the machine's gate, and whoever comes later waits there: else the whole machine would never be free
    while parts of it are taken again and again. Two searches on the parts of one machine take turns by it."""
    path = _path(machine_id, folder)
    machine, split = _split(path)
    if split and search:
        path = path.with_stem(f"{path.stem}-{search}")
    with ExitStack() as held:
        with _opened(path.with_name(f"{machine}.gate")) as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            file = held.enter_context(_opened(path))  # not before: who has the gate removes files that nobody holds
            while _is_kept_out(path) or not _is_taken(file):
                time.sleep(POLL_S)
        with suppress(OSError):  # another user's file, opened for reading
            os.pwrite(file, f"{os.getpid():<10}\n".encode(), 0)
        yield


def holder(machine_id: str, folder: Path | None = None) -> str:
    """'' while nobody keeps this machine or part; else the holder's process id, or 'unknown'."""
    path = _path(machine_id, folder)
    return next(filter(None, map(_holder, (path, *_excluding(path)))), "")


def _path(machine_id: str, folder: Path | None) -> Path:
    return (folder or Path(tempfile.gettempdir())) / f"dyno-machine-{machine_id}.lock"


def _split(path: Path) -> tuple[str, str]:
    """The whole machine of a lock file, and into how many parts it is split there by which search, '' where it is
    not."""
    found = _PART.fullmatch(path.stem)
    return (found[1], found[2]) if found else (path.stem, "")


def _is_kept_out(path: Path) -> bool:
    """Whether somebody measures who may not beside the holder of `path`; files of searches that have ended go."""
    for other in _excluding(path):
        if _holder(other):
            return True
        if "-" in _split(other)[1]:
            with suppress(OSError):
                other.unlink()
    return False


def _excluding(path: Path) -> list[Path]:
    """The other files whose holders may not measure beside that of `path`."""
    machine, split = _split(path)
    files = path.parent.glob(f"{glob.escape(machine)}.*lock")
    return [each for each in files if _split(each)[0] == machine and _split(each)[1] != split]


def _holder(path: Path) -> str:
    """As `holder`, of one file, which is not made by looking: only who has the gate may remove it."""
    with suppress(FileNotFoundError), path.open("rb") as looked:
        if not _is_taken(looked.fileno(), fcntl.LOCK_SH):  # shared: two that look do not see each other
            return looked.read(32).decode("ascii", "replace").strip() or "unknown"
    return ""


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of the lock file. Another user's may be locked though not written."""
    try:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        opened = os.open(path, os.O_RDONLY)
    try:
        with suppress(PermissionError):  # another user's file
            os.fchmod(opened, 0o644)  # a umask of 077 would keep others from opening it
        yield opened
    finally:
        os.close(opened)


def _is_taken(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
