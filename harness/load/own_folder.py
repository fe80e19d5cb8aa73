"""A temporary folder with an owner: what a process killed by -9 left behind, the next one removes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

OWNER = "owner"
"""A file in the folder that its owner keeps locked; the kernel lets go of the lock however the owner dies."""


@contextlib.contextmanager
def own_folder(prefix: str) -> Iterator[Path]:
    """A private folder that goes with the context; folders of this prefix whose owner is dead go first."""
    remove_orphans(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        with (folder / "new").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            (folder / "new").rename(folder / OWNER)  # only now can anybody see it, locked
            yield folder


def remove_orphans(prefix: str) -> None:
    """Remove this user's temporary folders of this prefix whose owner is dead; others are not touched."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, not ours to open, or (BlockingIOError) its owner lives
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / OWNER).open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
