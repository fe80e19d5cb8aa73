"""Headers of safetensors files: names, types and shapes of the tensors, and a sentence for a damaged file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid

_GIT_LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The place of one tensor: its dtype in the format's words ('BF16'), its shape, its first byte and the one past its
    last, counted from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_names(path: Path) -> frozenset[str]:
    """The names in a safetensors file whose header is sound and whose length is what the header promises. Raises
    ModelInvalid."""
    from safetensors import SafetensorError, safe_open  # missing in an environment whose engine reads no weights

    try:
        with safe_open(path, framework="numpy") as file:
            return frozenset(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelInvalid(f"{path}: {_fault(path, str(error))}") from error


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Name -> the place of each tensor. Raises ModelInvalid as `tensor_names` does; no value is read.

    The library checks the header but does not give offsets; they are read from what it has checked."""
    names = tensor_names(path)
    header, start = _header(path)
    stored = {}
    for name in names:
        entry = header[name]
        begin, end = (start + offset for offset in entry["data_offsets"])
        stored[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]), begin, end)
    return stored


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors' entries in the header, and the place of the first byte after it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _fault(path: Path, reason: str) -> str:
    """What is wrong, where more is known than the library's `reason`, and what to do."""
    if not path.is_file():
        return f"{reason}; expected a safetensors file"
    actual = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(len(_GIT_LFS))
    if first == _GIT_LFS:
        return "a git-lfs pointer, not weights; run `git lfs pull` in its repository"
    length = int.from_bytes(first[:8], "little")
    if actual < 8 or length > actual - 8:
        return (
            f"truncated or no safetensors file: its header alone is {length} bytes, the file {actual} bytes; "
            "download it again"
        )
    try:
        header, start = _header(path)
        expected = start + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        expected = actual
    if expected != actual:
        word = "truncated" if actual < expected else "too long"
        return f"{word}: expected {expected} bytes, got {actual} bytes; download it again"
    return f"its safetensors header is damaged ({reason}); download it again"
