"""The header of a GGUF file (llama.cpp's format): what it states of its model, and the types of its tensors.

Read without the package gguf, which need not be installed where a model is only looked at.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engines.errors import ModelInvalid

T = TypeVar("T")

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNED = 32
_NUMBERS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""GGUF's type of a value -> struct's letter."""
_STRING, _ARRAY = 8, 9

_TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136), 29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2),
    39: ("mxfp4", 32, 17),
}  # fmt: skip
"""ggml's number of a tensor type -> its name, values in a block, bytes of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """`values` are the file's key-value pairs; `weights` is the type of most of its bytes, such as 'q4_k'."""

    values: Mapping[str, Any]
    weights: str


def read_header(path: Path) -> GgufHeader:
    """The header of `path`. Raises ModelInvalid for a file that is no GGUF, or is cut short."""
    return _with_data(path, _read)


def without_weights(path: Path) -> bytes:
    """A GGUF file that states all that `path` does and holds one tensor of no use. Raises as `read_header`."""
    return _with_data(path, _without_weights)


def _with_data(path: Path, read: Callable[[Path, mmap.mmap], T]) -> T:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read(path, data)
    except OSError as error:
        raise ModelInvalid(f"{path}: {error.strerror}; expected a GGUF file") from error
    except ValueError as error:  # nothing to map, or text that is none
        raise ModelInvalid(f"{path}: not a readable GGUF file ({error}); download it again") from error
    except struct.error as error:
        raise ModelInvalid(f"{path}: the file ends within its header; download it again") from error


def _begin(path: Path, data: mmap.mmap) -> tuple[_Reader, int, dict[str, Any]]:
    """The place behind the key-value pairs, the number of tensors and the pairs."""
    if data[:4] != _MAGIC:
        raise ModelInvalid(f"{path}: expected a GGUF file, got one that begins with {data[:4]!r}")
    reader = _Reader(data)
    version = reader.number("I")
    if version not in _VERSIONS:
        raise ModelInvalid(f"{path}: GGUF version {version}, expected {' or '.join(map(str, _VERSIONS))}")
    tensors, pairs = reader.number("Q"), reader.number("Q")
    return reader, tensors, {reader.string(): reader.value(reader.number("I")) for _ in range(pairs)}


def _without_weights(path: Path, data: mmap.mmap) -> bytes:
    reader, _, _ = _begin(path, data)
    name = b"none"
    begin, count = len(_MAGIC) + struct.calcsize("I"), struct.calcsize("Q")
    tensor = struct.pack(f"<Q{len(name)}sIQIQ", len(name), name, 1, 1, 0, 0)
    head = data[:begin] + struct.pack("<Q", 1) + data[begin + count : reader.at] + tensor
    return head + bytes(2 * _ALIGNED - len(head) % _ALIGNED)


def _read(path: Path, data: mmap.mmap) -> GgufHeader:
    reader, tensors, values = _begin(path, data)
    bytes_of: Counter[str] = Counter()
    end = 0
    for _ in range(tensors):
        reader.string()
        shape = [reader.number("Q") for _ in range(reader.number("I"))]
        number, offset = reader.number("I"), reader.number("Q")
        name, block, block_bytes = _TENSOR_TYPES.get(number, (f"type {number}", 1, 0))
        size = math.prod(shape) // block * block_bytes
        bytes_of[name] += size
        end = max(end, offset + size)
    alignment = int(values.get("general.alignment", _ALIGNED))
    begin = -(-reader.at // alignment) * alignment
    if begin + end > len(data):
        raise ModelInvalid(f"{path}: {len(data)} bytes, its header promises {begin + end}; download it again")
    return GgufHeader(values=values, weights=bytes_of.most_common(1)[0][0] if bytes_of else "")


class _Reader:
    """A place in the header that moves on with every value read."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = len(_MAGIC)

    def number(self, letter: str) -> Any:
        """One number, little-endian."""
        found = struct.unpack_from(f"<{letter}", self._data, self.at)[0]
        self.at += struct.calcsize(letter)
        return found

    def string(self) -> str:
        """A length and so many bytes of UTF-8; other bytes are replaced."""
        length = self.number("Q")
        if self.at + length > len(self._data):
            raise struct.error
        self.at += length
        return self._data[self.at - length : self.at].decode(errors="replace")

    def value(self, kind: int) -> Any:
        """A value of GGUF's type `kind`."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"a value of unknown type {kind}")
        return self.number(_NUMBERS[kind])
