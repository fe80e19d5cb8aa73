"""Writes of stored files to disk, whole or absent: temporary name, fsync, rename; a failed append is cut off again."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import EnvironmentFault

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn an OSError inside into an EnvironmentFault that states what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            advice = "the disk is full (or a quota is reached); free some space and run the same command again"
        else:
            advice = f"{error.strerror or error}; make the folder writable or choose another"
        raise EnvironmentFault(f"{path}: cannot be written, {advice}; what was stored before is intact") from error


def write_whole(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a temporary file beside `path`, then put it in place; `path` is never seen half-written.

    Raises EnvironmentFault, and leaves nothing new behind, when the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            fill(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    write_whole(path, lambda partial: _dump(partial, content))


def append_line(path: Path, line: bytes) -> None:
    """Append one line and force it to the disk; on failure the file is as long as before. Raises EnvironmentFault."""
    with disk_faults(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, line + b"\n")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force a rename in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
