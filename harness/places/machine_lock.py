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
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

POLL_S = 0.2


@contextmanager
def machine_lock(machine_id: str, search: str = "", folder: Path | None = None) -> Iterator[None]:
    """Waits until nobody else measures on this machine, or part of one, then keeps others out; on other parts `search`
    may measure meanwhile.

    Who waits holds the machine's gate, and whoever comes later waits there: else the whole machine would never be free
    while parts of it are taken again and again. Two searches on the parts of one machine take turns by it."""
    path = _path(machine_id, search, folder)
    with ExitStack() as held:
        with _opened(path.with_name(f"{_machine(path)}.gate")) as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            file = held.enter_context(_opened(path))  # not before: who has the gate removes files that nobody holds
            while _is_kept_out(path) or not _is_taken(file):
                time.sleep(POLL_S)
        with suppress(OSError):  # another user's file, opened for reading
            os.pwrite(file, f"{os.getpid():<10}\n".encode(), 0)
        yield


def holder(machine_id: str, folder: Path | None = None) -> str:
    """'' while nobody measures on this machine or on a part of it; else that process's id, or 'unknown'."""
    return next(filter(None, map(_holder, _files(_path(machine_id, "", folder)))), "")


def _path(machine_id: str, search: str, folder: Path | None) -> Path:
    """Of the machine 'm' 'm.lock'; of its part 'm.1of2' 'm.1of2-SEARCH.lock'."""
    name = f"{machine_id}-{search}" if "." in machine_id else machine_id
    return (folder or Path(tempfile.gettempdir())) / f"dyno-machine-{name}.lock"


def _files(path: Path) -> list[Path]:
    """The lock files of the same machine and of its parts."""
    return list(path.parent.glob(f"{glob.escape(_machine(path))}.*lock"))


def _machine(path: Path) -> str:
    return path.stem.partition(".")[0]


def _company(path: Path) -> str:
    """'2-SEARCH' of a part: whose files have the same may be held side by side. '' of a whole machine."""
    return path.stem.partition(".")[2].partition("of")[2]


def _is_kept_out(path: Path) -> bool:
    """Whether somebody measures who may not beside the holder of `path`; files of searches that have ended go."""
    for other in _files(path):
        if _company(other) != _company(path):
            if _holder(other):
                return True
            if _company(other):
                with suppress(OSError):
                    other.unlink()
    return False


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
