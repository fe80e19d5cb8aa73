"""Random weights have the published sizes, are the same for the same seed, and mean the same to Hugging Face."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engines.errors import ModelInvalid, Unavailable
from engines.models.hugging_face import load_model, scales_outputs
from engines.models.random_weights.folders import random_model, write_random_model
from engines.models.random_weights.shapes import SHAPES
from engines.models.tokenizer import Tokenizer
from tests.engines.models.t5_folders import TINY_FLAN, TINY_V1, write_model

pytestmark = pytest.mark.heavy

PUBLISHED = {
    "flan-t5-small": 76_961_152,
    "flan-t5-base": 247_577_856,
    "flan-t5-large": 783_150_080,
    "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
}
"""Parameter counts of the published checkpoints."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    assert sum(prod(tensor.shape) for tensor in SHAPES[name].tensors()) == PUBLISHED[name]


def test_flan_loads_untied_and_unscaled_and_t5_tied_and_scaled(tmp_path: Path) -> None:
    flan = load_model(write_model(tmp_path / "flan", TINY_FLAN), "fp32", "eager")
    v1 = load_model(write_model(tmp_path / "v1", TINY_V1), "fp32", "eager")

    assert not torch.equal(flan.lm_head.weight, flan.shared.weight)
    assert not scales_outputs(flan)
    assert torch.equal(v1.lm_head.weight, v1.shared.weight)
    assert scales_outputs(v1)


@pytest.mark.parametrize("shape", [TINY_FLAN, TINY_V1], ids=["flan", "v1"])
def test_every_tensor_is_one_hugging_face_expects(tmp_path: Path, shape: object) -> None:
    folder = write_model(tmp_path, shape)  # type: ignore[arg-type]
    with safe_open(folder / "model.safetensors", "pt") as file:
        written = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    expected = {name: tuple(value.shape) for name, value in load_model(folder, "fp32", "eager").named_parameters()}

    assert written == expected


def test_a_checkpoint_that_lacks_a_tensor_is_refused_not_filled_with_random_numbers(tmp_path: Path) -> None:
    folder = write_model(tmp_path, TINY_FLAN)
    values = load_file(folder / "model.safetensors")
    lost = "decoder.block.1.layer.1.EncDecAttention.k.weight"
    del values[lost]
    save_file(values, folder / "model.safetensors")

    with pytest.raises(ModelInvalid, match=rf"lack 1 tensors \(first: {re.escape(lost)}\)"):
        load_model(folder, "fp32", "eager")


def test_greedy_answers_vary_from_token_to_token(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path, TINY_FLAN), "fp32", "eager")

    ids = model.generate(torch.tensor([[5, 9, 77, 300, 1]]), max_new_tokens=30, do_sample=False)[0]

    assert len(set(ids.tolist())) > 10


def test_the_same_seed_gives_the_same_bytes_whatever_the_sharding(tmp_path: Path) -> None:
    whole, again, other = (write_model(tmp_path / name, TINY_V1, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    write_random_model(sharded, TINY_V1, 0, shard_bytes=100_000)

    def values(folder: Path) -> dict[str, bytes]:
        found = {}
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "np") as file:
                found |= {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
        return found

    assert values(whole) == values(again) == values(sharded)
    assert values(whole) != values(other)


def test_a_named_shape_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "flan-t5-small", TINY_FLAN)  # type: ignore[misc]
    folder = random_model("flan-t5-small", 3, tmp_path)
    written = (folder / "model.safetensors").stat().st_mtime_ns

    assert random_model("flan-t5-small", 3, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert random_model("flan-t5-small", 4, tmp_path) != folder


def test_a_disk_too_small_is_said_before_writing(tmp_path: Path) -> None:
    huge = SHAPES["t5-11b"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**9})())
        with pytest.raises(Unavailable, match=r"weights take 45\.2 GB, only 1\.0 GB are free"):
            write_random_model(tmp_path, huge, 0)
    assert not any(tmp_path.iterdir())


def test_the_stand_in_tokenizer_gives_different_ids_of_useful_length(tmp_path: Path) -> None:
    write_random_model(tmp_path, TINY_FLAN, 0)
    tokenizer = Tokenizer.load(tmp_path)

    one, two = tokenizer.encode("spell: forty two"), tokenizer.encode("spell: fifty one")

    assert one != two
    assert one[-1] == two[-1] == 1
    assert max(one) < TINY_FLAN.vocab_size
    assert tokenizer.decode(one) == "spell : forty two"
