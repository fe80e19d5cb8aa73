"""Temporary folders with an owner process: locked while the owner lives, removed by a later process once it has died.

The lock is the kernel's (flock on the folder itself), so it ends with the last process that holds it, however that one
ends. No process id is asked: they are used again, and mean nothing in another container that shares the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

OURS = re.compile(r"dyno-\d+-[a-z0-9]+-[0-9a-f]{8}")
"""dyno-<process id, for people who look>-<kind>-<token>. Folders of other names are nobody's to remove."""


def fresh_path(kind: str) -> Path:
    """A path for a folder of this process in the temporary folder; it does not exist yet, see `hold`."""
    parent = Path(tempfile.gettempdir())
    _sweep_once(parent)
    return parent / f"dyno-{os.getpid()}-{kind}-{secrets.token_hex(4)}"


def hold(folder: Path) -> int:
    """Make `folder` where it is missing, and lock it: a descriptor, whose closing in every process that has it gives
    the folder up. Where the file system knows no locks the folder is never removed by others."""
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), folder.stat()):
                return held
        os.close(held)  # it was swept between its making and its locking


@contextlib.contextmanager
def owned_folder(kind: str) -> Iterator[Path]:
    """A folder that is removed at the end, or by the next owner of one if this process is killed before."""
    folder = fresh_path(kind)
    held = hold(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def sweep(parent: Path) -> list[Path]:
    """Remove this user's folders in `parent` that nobody holds; which those were."""
    with contextlib.suppress(OSError):
        return [path for path in parent.iterdir() if OURS.fullmatch(path.name) and _is_removed(path)]
    return []


@cache
def _sweep_once(parent: Path) -> None:
    sweep(parent)


def _is_removed(path: Path) -> bool:
    try:
        looked = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        facts = os.fstat(looked)
        if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
        fcntl.flock(looked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:  # somebody lives in it, or nothing can be locked here
        return False
    finally:
        os.close(looked)
    return not path.exists()
