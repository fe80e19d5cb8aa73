"""Weight files: every container gives the same tensors, a damaged one gives a sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engines.errors import ModelInvalid, Unavailable
from engines.t5.weights import Checkpoint

pytestmark = pytest.mark.heavy

torch.manual_seed(3)
TENSORS = {
    "a.weight": torch.randn(5, 7),
    "b.weight": torch.randn(4, 6, dtype=torch.float32).t(),  # not row-major
    "c.weight": torch.randn(9)[2:7],  # inside a larger storage
    "half.weight": torch.randn(3, 4).to(torch.float16),
    "brain.weight": torch.randn(3, 4).to(torch.bfloat16),
}
SHARDS = (("a.weight", "b.weight"), ("c.weight", "half.weight", "brain.weight"))


def _safetensors(folder: Path) -> None:
    save_file({k: v.contiguous() for k, v in TENSORS.items()}, folder / "model.safetensors")


def _bin(folder: Path) -> None:
    torch.save(TENSORS, folder / "pytorch_model.bin")


def _sharded(stem: str, suffix: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        where = {}
        for i, names in enumerate(SHARDS, start=1):
            file = f"{stem}-0000{i}-of-00002.{suffix}"
            tensors = {name: TENSORS[name] for name in names}
            if suffix == "bin":
                torch.save(tensors, folder / file)
            else:
                save_file({k: v.contiguous() for k, v in tensors.items()}, folder / file)
            where |= dict.fromkeys(names, file)
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": where}))

    return write


WRITERS = {
    "safetensors": _safetensors,
    "bin": _bin,
    "sharded safetensors": _sharded("model", "safetensors"),
    "sharded bin": _sharded("pytorch_model", "bin"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_container_gives_the_same_tensors(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.names() == set(TENSORS)
    for name, tensor in TENSORS.items():
        got = checkpoint.read(name, tuple(tensor.shape))
        assert np.array_equal(got, tensor.float().numpy())
        assert np.array_equal(checkpoint.read(name, tuple(tensor.shape), slice(1, 3)), tensor[1:3].float().numpy())
    checkpoint.release()


def _cut(name: str, keep: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return damage


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def _header(entry: object) -> bytes:
    text = json.dumps({"a.weight": entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


def _saved(state: object) -> Callable[[Path], None]:
    return lambda folder: torch.save(state, folder / "pytorch_model.bin")


def _hostile(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (__import__("os").system, ("touch hacked",))

    torch.save({"a.weight": Evil()}, folder / "pytorch_model.bin")


SINGLE, BIN, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
DAMAGED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no bytes at all": ("safetensors", _write(SINGLE, b""), "truncated or no safetensors file"),
    "half of it": ("safetensors", _cut(SINGLE, 0.9), r"truncated: expected \d+ bytes, got \d+ bytes"),
    "a header cut short": ("safetensors", _cut(SINGLE, 0.2), "its header alone is"),
    "a header that is no object": ("safetensors", _write(SINGLE, b"\2" + bytes(7) + b"[]"), "header is damaged"),
    "no offsets": ("safetensors", _write(SINGLE, _header({"dtype": "F32"})), "damaged .*missing field `shape`"),
    "negative offsets": (
        "safetensors", _write(SINGLE, _header({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]})), "damaged",
    ),
    "a shape that does not fill its bytes": (
        "safetensors", _write(SINGLE, _header({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]})), "damaged",
    ),
    "bytes behind the last tensor": (
        "safetensors", _write(SINGLE, _header({"dtype": "F16", "shape": [1], "data_offsets": [0, 2]})), "too long",
    ),
    "whole numbers": (
        "safetensors", _write(SINGLE, _header({"dtype": "I32", "shape": [1], "data_offsets": [0, 4]})), "got I32",
    ),
    "a bin of half its size": ("bin", _cut(BIN, 0.5), "torch cannot read it as plain weights"),
    "an empty bin": ("bin", _write(BIN, b""), "torch cannot read it as plain weights"),
    "a pickle of something else": ("bin", _saved([1, 2]), "torch cannot read it as plain weights"),
    "a pickle that runs code": ("bin", _hostile, "torch cannot read it as plain weights .UnpicklingError."),
    "a bin of whole numbers": ("bin", _saved({"a.weight": torch.ones(5, 7, dtype=torch.int32)}), "got torch.int32"),
    "an index that is no JSON": ("sharded safetensors", _write(INDEX, b"{"), "expected a .weight_map. of tensor name"),
    "an index without a map": ("sharded safetensors", _write(INDEX, b"{}"), "expected a .weight_map. of tensor name"),
    "a shard that is missing": (
        "sharded bin", lambda folder: (folder / "pytorch_model-00002-of-00002.bin").unlink(), "1 of 2 shards",
    ),
    "a shard from elsewhere": (
        "sharded safetensors", _write(INDEX, b'{"weight_map": {"a.weight": "../x.safetensors"}}'), "1 of 1 shards",
    ),
    "nothing": ("safetensors", lambda folder: (folder / SINGLE).unlink(), "no weights; expected model.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("title", DAMAGED)
def test_a_damaged_folder_gives_one_sentence(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, damage, message = DAMAGED[title]
    monkeypatch.chdir(tmp_path)
    WRITERS[kind](tmp_path)
    damage(tmp_path)

    def read() -> None:
        checkpoint = Checkpoint(tmp_path)
        for name in checkpoint.names():
            checkpoint.read(name, tuple(TENSORS[name].shape))

    with pytest.raises(ModelInvalid, match=message) as failure:
        read()
    assert str(tmp_path) in str(failure.value)
    assert not (tmp_path / "hacked").exists()


def test_a_bin_without_torch_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _bin(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Unavailable, match=r"pytorch_model\.bin: .* save the model as safetensors"):
        Checkpoint(tmp_path)


def test_safetensors_need_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _safetensors(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert Checkpoint(tmp_path).read("a.weight", (5, 7)).shape == (5, 7)
