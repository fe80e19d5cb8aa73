"""The cache of model folders that are expensive to make: converted models, random weights and downloads.

A folder appears whole or not at all: it is built beside its final place, flushed, and renamed. One build of a key runs
at a time across processes (an advisory file lock); the others wait and then use its result.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import ModelInvalid, Unavailable

WHOLE_HASH_BYTES = 256 << 20
"""Files up to this size are hashed whole; a larger file by size, modification time and three 1 MiB samples, because
hashing 44 GB of weights would cost longer than converting them."""

_SAMPLE_BYTES = 1 << 20

FORM = "form.txt"
"""In a conversion that a model folder carries along: which one it is."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, after `build(temporary_folder)` has filled it if it did not exist.

    What `build` raises is passed on and leaves nothing behind; a full or read-only disk becomes Unavailable.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                _build(folder, build)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise Unavailable(
            f"cannot write the cache folder {folder}: {error.strerror or error}; free space there or point DYNO_CACHE "
            "at another disk"
        ) from error
    return folder


def carried(folder: Path, form: str) -> Path | None:
    """`folder`, if it is a conversion of this form that somebody put into a model folder; else None."""
    try:
        return folder if (folder / FORM).read_text(encoding="ascii").strip() == form else None
    except (OSError, ValueError):
        return None


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    temporary = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed build: we hold its lock, so nobody is writing it
    temporary.mkdir()
    try:
        build(temporary)
        _flush(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _flush(folder: Path) -> None:
    """Everything under `folder` on disk, so that a rename after a power loss never shows empty files."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel if this process dies
        yield


def model_digest(model_dir: Path) -> str:
    """The digest of what a conversion reads: configs, tokenizer and weights."""
    return folder_digest(model_dir, names=lambda name: name.endswith((".json", ".safetensors", ".bin")))


def check_unchanged(model_dir: Path, digest: str) -> None:
    """Raises ModelInvalid if the folder is no longer what `digest` was taken of, so that a cache never holds a mixture
    (somebody may be saving a new checkpoint while the old one is converted)."""
    if model_digest(model_dir) != digest:
        raise ModelInvalid(f"{model_dir}: its files changed while they were converted; try again once they are still")


def folder_digest(folder: Path, *, names: Callable[[str], bool] = lambda _: True) -> str:
    """16 hex digits that change when any file directly inside `folder` whose name passes `names` changes."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and names(path.name)):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        _digest_content(path, digest)
    return digest.hexdigest()[:16]


def _digest_content(path: Path, digest: hashlib._Hash) -> None:
    stat = path.stat()
    with path.open("rb") as file:
        if stat.st_size <= WHOLE_HASH_BYTES:
            while block := file.read(_SAMPLE_BYTES):
                digest.update(block)
            return
        digest.update(f"{stat.st_mtime_ns}".encode())
        for offset in (0, stat.st_size // 2, stat.st_size - _SAMPLE_BYTES):
            file.seek(offset)
            digest.update(file.read(_SAMPLE_BYTES))
