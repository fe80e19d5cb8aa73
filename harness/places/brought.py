"""Files that `dyno machines --prepare` brought to this machine, and the pieces in which they arrive.

A file is kept below $DYNO_CACHE/brought under the path that it has where the search runs. It arrives in a `.part` named
by its hash, so that a transfer which was cut short continues where it ended, and gets its name once that hash is right.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.cache_folder import cache_root

PIECE_BYTES = 6 << 20
"""One message; Dask warns of larger ones than 10 MiB, and base64 adds a third."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a file must be."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a file from `offset` on, as base64; `path` is that of the file where the search runs."""

    path: str
    file: Stored
    offset: int
    content: str


def brought_path(path: str) -> Path:
    """Where a file or folder of that path is kept here once it is brought."""
    return cache_root() / "brought" / path.lstrip("/")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drop_others(folder: str, files: Mapping[str, Stored]) -> None:
    """Remove what was brought into a folder before and is none of `files`."""
    kept = {*files, *(_part(f"{folder}/{name}", file).name for name, file in files.items())}
    for path in brought_path(folder).iterdir() if brought_path(folder).is_dir() else ():
        if path.name not in kept and path.is_file():
            path.unlink()


def is_same(path: Path, file: Stored) -> bool:
    """Whether `path` has that size and content."""
    return path.is_file() and path.stat().st_size == file.size_bytes and file_sha256(path) == file.sha256


def arrived_bytes(path: str, file: Stored) -> int:
    """How much of a file an earlier transfer brought."""
    part = _part(path, file)
    return part.stat().st_size if part.exists() else 0


def receive(request: str) -> tuple[bytes, str]:
    """Keep a piece; how many bytes of its file are here now, as JSON, and '', or nothing and the sentence why not.

    A piece that does not begin where the file ends is left: the answer states from where to continue.
    """
    piece = _piece(json.loads(request))
    part = _part(piece.path, piece.file)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if piece.offset and not part.exists() and brought_path(piece.path).exists():
            return _json(piece.file.size_bytes), ""  # another node of this machine has ended it meanwhile
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if size == piece.offset:
                size += file.write(base64.b64decode(piece.content))
                file.flush()
            if size < piece.file.size_bytes:
                return _json(size), ""
            os.fsync(file.fileno())
            return _ended(part, piece)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            why = f"the disk of {cache_root()} is full; free space there or point DYNO_CACHE at another disk"
            return b"", f"{why}, then run the same command: it continues from there"
        return b"", f"cannot write {part.parent}: {error.strerror or error}; point DYNO_CACHE elsewhere"


def _ended(part: Path, piece: Piece) -> tuple[bytes, str]:
    if file_sha256(part) != piece.file.sha256:
        part.unlink()
        return b"", f"{piece.path} arrived with other content than was sent; run the same command again"
    part.replace(brought_path(piece.path))
    return _json(piece.file.size_bytes), ""


def _part(path: str, file: Stored) -> Path:
    kept = brought_path(path)
    return kept.with_name(f".{kept.name}.{file.sha256[:16]}.part")


def _piece(request: Mapping[str, Any]) -> Piece:
    return Piece(**{**request, "file": Stored(**request["file"])})


def _json(size: int) -> bytes:
    return json.dumps(size).encode()
