"""The tensors of a Hugging Face folder, one at a time and as fp32, without torch.

Reads safetensors (single or sharded) and pytorch `.bin` archives (zip format). A `.bin` is a pickle: it is read by an
unpickler that knows five names and refuses every other, so a hostile file cannot run code.
"""

from __future__ import annotations

import io
import json
import mmap
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.errors import ModelInvalid
from engines.models.safetensors_header import stored_tensors

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bf16"}
_TORCH_STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bf16"}


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where one tensor lies: a buffer, its element type, shape and element strides (None: row-major)."""

    buffer: memoryview
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    def of_rows(self, rows: slice) -> _Stored:
        """The same tensor, cut along its first dimension."""
        first, last, _ = rows.indices(self.shape[0])
        inner = int(np.prod(self.shape[1:])) if self.strides is None else self.strides[0]
        skipped = first * inner * _size_of(self.dtype)
        return _Stored(self.buffer[skipped:], self.dtype, (max(0, last - first), *self.shape[1:]), self.strides)

    def as_float(self) -> FloatArray:
        kind = "<u2" if self.dtype == "bf16" else self.dtype
        flat = np.frombuffer(self.buffer, dtype=kind)
        size = _size_of(self.dtype)
        count = int(np.prod(self.shape))
        if self.strides is None:
            values = flat[:count].reshape(self.shape)
        else:
            values = np.lib.stride_tricks.as_strided(flat, self.shape, tuple(s * size for s in self.strides))
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
        for file in _weight_files(folder):
            archive: _Archive = _TorchZip(file) if file.suffix == ".bin" else _Safetensors(file)
            for name in archive.names():
                self._where[name] = archive

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def names(self) -> frozenset[str]:
        return frozenset(self._where)

    def read(self, name: str, shape: tuple[int, ...], rows: slice | None = None) -> FloatArray:
        """The tensor, or some of its rows, as a fresh or mapped fp32 array. Raises ModelInvalid if it is absent or of
        another shape."""
        stored = self._stored(name, shape)
        return (stored if rows is None else stored.of_rows(rows)).as_float()

    def mapped(self, name: str, shape: tuple[int, ...], dtype: str) -> Bytes | None:
        """The tensor's own bytes in the mapped file, row-major; None unless stored as `dtype` (fp32, bf16 or fp16)."""
        stored = self._stored(name, shape)
        kind = {"fp32": "<f4", "fp16": "<f2"}.get(dtype, dtype)
        if stored.dtype != kind or stored.strides is not None:
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


def _weight_files(folder: Path) -> list[Path]:
    for index, single in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        if (folder / index).is_file():
            try:
                listed = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
                files = [folder / str(name) for name in sorted(set(listed.values()))]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelInvalid(f"{folder / index}: expected a weight_map of shards, got {error!r}") from error
            for file in files:
                if file.parent != folder or not file.is_file():
                    raise ModelInvalid(f"{folder / index}: expected the shard {file.name!r} beside it, it is missing")
            return files
        if (folder / single).is_file():
            return [folder / single]
    raise ModelInvalid(
        f"{folder}: expected model.safetensors or pytorch_model.bin (or an index of shards), got neither"
    )


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


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str


@dataclass(frozen=True, slots=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _View:
    view = _View(storage, offset, tuple(shape), tuple(strides))
    is_sound = isinstance(storage, _Storage) and len(view.shape) == len(view.strides)
    if not is_sound or not all(isinstance(n, int) for n in (offset, *view.shape, *view.strides)):
        raise pickle.UnpicklingError(f"a tensor that is none: {view!r}"[:200])
    return view


def _rebuild_parameter(view: _View, *_: object) -> _View:
    return view


class _SafeUnpickler(pickle.Unpickler):
    """Knows a state dict and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        if module == "torch" and name in _TORCH_STORAGES:
            return _TORCH_STORAGES[name]
        raise ModelInvalid(f"the pickle asks for {module}.{name}, which a weight file has no use for: refused")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key = pid[0], pid[1], pid[2]
        if kind != "storage" or dtype not in _TORCH_STORAGES.values():
            raise ModelInvalid(f"the pickle refers to {kind!r}: expected a tensor storage")
        return _Storage(str(key), dtype)


# What zipfile raises for bytes that are no archive, or one packed or encrypted in a way of which it has no notion.
_DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, StopIteration, OSError, EOFError, ValueError, LookupError,
    NotImplementedError, RuntimeError, OverflowError, MemoryError,
)  # fmt: skip


class _TorchZip:
    """A torch.save archive: a zip with data.pkl and one uncompressed entry per storage, mapped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
            pickled = next(n for n in self._zip.namelist() if n.endswith("/data.pkl"))
            content = self._zip.read(pickled)
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except _DAMAGED_ZIP as error:
            raise ModelInvalid(
                f"{path}: expected a zip archive of torch >= 1.6 (re-save older files as safetensors), got {error!r}"
            ) from error
        self._checked: set[str] = set()
        self._prefix = pickled.removesuffix("data.pkl")
        try:
            state: Mapping[str, Any] = _SafeUnpickler(io.BytesIO(content)).load()
            self._views = {str(k): v for k, v in state.items() if isinstance(v, _View)}
        except (pickle.UnpicklingError, EOFError, AttributeError, ModelInvalid) as error:
            raise ModelInvalid(f"{path}: {error}") from error
        except (ValueError, TypeError, LookupError, OverflowError, MemoryError, RecursionError) as error:
            raise ModelInvalid(f"{path}: expected a pickled state dict, got {error!r}") from error

    def names(self) -> Sequence[str]:
        return list(self._views)

    def stored(self, name: str) -> _Stored:
        view = self._views[name]
        data = self._storage(view.storage.key, name)
        size = _size_of(view.storage.dtype)
        last = view.offset + 1 + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
        if last * size > len(data) or min((view.offset, *view.shape, *view.strides)) < 0:
            raise ModelInvalid(f"{self._path}: {name}: its storage is too short (a damaged file?)")
        row_major = tuple(int(np.prod(view.shape[i + 1 :])) for i in range(len(view.shape)))
        strides = None if view.strides == row_major else view.strides
        return _Stored(data[view.offset * size :], view.storage.dtype, view.shape, strides)

    def _storage(self, key: str, name: str) -> memoryview:
        """The bytes of one storage; its checksum is looked at once. Local file header: APPNOTE.TXT 4.3.7."""
        try:
            entry = self._zip.getinfo(f"{self._prefix}data/{key}")
        except KeyError as error:
            raise ModelInvalid(f"{self._path}: {name}: its storage {key!r} is missing (a damaged file?)") from error
        header = self._map[entry.header_offset : entry.header_offset + 30]
        begin = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30])) if len(header) == 30 else 0
        data = memoryview(self._map)[begin : begin + entry.file_size]
        if entry.compress_type != zipfile.ZIP_STORED or len(data) != entry.file_size:
            raise ModelInvalid(f"{self._path}: {name}: expected {entry.file_size} uncompressed bytes (a damaged file?)")
        if key not in self._checked:
            if zlib.crc32(data) != entry.CRC:
                raise ModelInvalid(f"{self._path}: {name}: its bytes do not match their checksum (a damaged file)")
            self._checked.add(key)
        return data

    def release(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)
