"""The weights of a Hugging Face T5 folder, one tensor at a time and as fp32.

Reads safetensors (single or sharded) without torch, and pytorch `.bin` checkpoints with it: a `.bin` is a pickle, and
torch reads those as plain weights, refusing every other object, so a hostile file cannot run code.
"""

from __future__ import annotations

import mmap
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engines.errors import ModelInvalid, Unavailable
from engines.models.checkpoint.safetensors_header import stored_tensors
from engines.models.checkpoint.unservable import lost_head
from engines.models.checkpoint.weight_files import weight_files

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bf16"}
_TORCH_DTYPES = {
    "torch.float64": "<f8",
    "torch.float32": "<f4",
    "torch.float16": "<f2",
    "torch.bfloat16": "bf16",
}


@dataclass(frozen=True, slots=True)
class _Stored:
    """The place of one tensor, row-major: a buffer, its element type and shape."""

    buffer: memoryview
    dtype: str
    shape: tuple[int, ...]

    def of_rows(self, rows: slice) -> _Stored:
        """The same tensor, cut along its first dimension."""
        first, last, _ = rows.indices(self.shape[0])
        skipped = first * int(np.prod(self.shape[1:])) * _size_of(self.dtype)
        return _Stored(self.buffer[skipped:], self.dtype, (max(0, last - first), *self.shape[1:]))

    def as_float(self) -> FloatArray:
        kind = "<u2" if self.dtype == "bf16" else self.dtype
        values = np.frombuffer(self.buffer, dtype=kind, count=int(np.prod(self.shape))).reshape(self.shape)
        if self.dtype == "bf16":
            wide = values.astype(np.uint32, order="C")
            return np.left_shift(wide, 16, out=wide).view(np.float32)
        return np.ascontiguousarray(values, dtype=np.float32)


def _size_of(dtype: str) -> int:
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


class _Archive(Protocol):
    def names(self) -> Sequence[str]: ...
    def stored(self, name: str) -> _Stored: ...
    def release(self) -> None: ...


class Checkpoint:
    """The tensors of one model folder by name. Nothing is read until asked for; nothing read is kept."""

    def __init__(self, folder: Path) -> None:
        """Open the folder's weight files. Raises ModelInvalid if there is none or one is damaged."""
        self.folder = folder
        self._where: dict[str, _Archive] = {}
        for file in weight_files(folder):
            archive: _Archive = _TorchFile(file) if file.suffix == ".bin" else _Safetensors(file)
            for name in archive.names():
                self._where[name] = archive

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def names(self) -> frozenset[str]:
        return frozenset(self._where)

    def check_head(self, *, has_own_head: bool) -> None:
        """Raises ModelInvalid where a decoder's own head is not in the files; a tied one would give wrong numbers."""
        has_decoder = any(name.startswith("decoder.block.") for name in self._where)
        if has_own_head and has_decoder and "lm_head.weight" not in self._where:
            raise ModelInvalid(lost_head(self.folder))

    def read(self, name: str, shape: tuple[int, ...], rows: slice | None = None) -> FloatArray:
        """The tensor, or some of its rows, as a fresh or mapped fp32 array. Raises ModelInvalid if it is absent or of
        another shape."""
        stored = self._stored(name, shape)
        return (stored if rows is None else stored.of_rows(rows)).as_float()

    def mapped(self, name: str, shape: tuple[int, ...], dtype: str) -> Bytes | None:
        """The tensor's own bytes in the mapped file, row-major; None unless stored as `dtype` (fp32, bf16 or fp16)."""
        stored = self._stored(name, shape)
        kind = {"fp32": "<f4", "fp16": "<f2"}.get(dtype, dtype)
        if stored.dtype != kind:
            return None
        return np.frombuffer(stored.buffer, np.uint8, count=int(np.prod(shape)) * _size_of(kind))

    def _stored(self, name: str, shape: tuple[int, ...]) -> _Stored:
        if name not in self._where:
            raise ModelInvalid(f"{self.folder}: expected a tensor {name!r}, it is missing")
        stored = self._where[name].stored(name)
        if stored.shape != shape:
            raise ModelInvalid(f"{self.folder}: {name}: expected shape {shape}, got {stored.shape}")
        return stored

    def release(self) -> None:
        """Give back the memory of what has been read (mapped pages stay in the system's file cache)."""
        for archive in set(self._where.values()):
            archive.release()


class _Safetensors:
    """A mapped safetensors file."""

    def __init__(self, path: Path) -> None:
        self._path, self._tensors = path, stored_tensors(path)
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def stored(self, name: str) -> _Stored:
        tensor = self._tensors[name]
        dtype = _SAFETENSORS_DTYPES.get(tensor.dtype)
        if dtype is None:
            raise ModelInvalid(f"{self._path}: {name}: expected a float tensor, got {tensor.dtype}")
        return _Stored(memoryview(self._map)[tensor.begin : tensor.end], dtype, tensor.shape)

    def release(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)


class _TorchFile:
    """A torch.save archive, mapped by torch, or read whole where it is of before torch 1.6; tensors are wrapped without
    a copy."""

    def __init__(self, path: Path) -> None:
        try:
            import torch
        except ImportError:
            raise Unavailable(
                f"{path}: a .bin checkpoint is read by torch, which is not installed; pip install "
                "'dynamometer[transformers]', or save the model as safetensors with transformers' save_pretrained"
            ) from None
        self._path = path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of odd bytes: they are refused below, or do no harm
                state = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
            self._tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
        except _REFUSED_BY_TORCH as error:
            raise ModelInvalid(
                f"{path}: torch cannot read it as plain weights ({type(error).__name__}): damaged, or more "
                "than weights; download the model again, best as safetensors"
            ) from error

    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def stored(self, name: str) -> _Stored:
        import torch

        tensor = self._tensors[name].detach()
        dtype = _TORCH_DTYPES.get(str(tensor.dtype))
        if dtype is None:
            raise ModelInvalid(f"{self._path}: {name}: expected a float tensor, got {tensor.dtype}")
        flat = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        return _Stored(memoryview(flat), dtype, tuple(tensor.shape))

    def release(self) -> None:
        """Nothing: its pages are torch's mapping, which the system takes back when memory is short."""


_REFUSED_BY_TORCH = (
    zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError,
    AttributeError, OverflowError, MemoryError,
)  # fmt: skip
"""What torch.load raises for bytes that are no checkpoint, or more than one."""
