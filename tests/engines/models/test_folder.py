"""Every way a model folder can be broken ends in one sentence that names the file and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from engines.errors import ModelInvalid
from engines.models.checkpoint.special_ids import special_ids
from engines.models.folder import check_model_folder, resolve_model
from engines.models.random_weights.folders import write_random_model
from engines.models.random_weights.t5_shapes import T5Shape

SHAPE = T5Shape(d_model=8, d_ff=16, num_heads=2, num_layers=1, d_kv=4, vocab_size=200)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder, SHAPE, 0)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(folder: Path) -> str:
    with pytest.raises(ModelInvalid) as caught:
        check_model_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_a_whole_folder_passes(folder: Path) -> None:
    check_model_folder(folder)
    assert resolve_model("path", str(folder), 0, folder / "cache") == folder.resolve()


def test_truncated_weights_give_expected_and_actual_bytes(folder: Path) -> None:
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.truncate(size - 100)

    message = refused(folder)

    assert f"{weights}: truncated: expected {size} bytes, got {size - 100} bytes" in message


@pytest.mark.parametrize("keep", [0, 4, 200])
def test_weights_cut_inside_the_header_are_refused(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])

    assert "truncated or no safetensors file" in refused(folder)


def test_a_git_lfs_pointer_is_named_as_such(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")

    assert "git lfs pull" in refused(folder)


def test_a_damaged_header_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[8] = ord("x")
    weights.write_bytes(content)

    assert "header is damaged" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    assert name in refused(folder)


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(tmp_path / "file")


def test_an_unknown_model_family_is_refused_and_weights_of_another_too(folder: Path) -> None:
    edit(folder / "config.json", model_type="mamba")
    assert "'mamba'" in refused(folder)

    edit(folder / "config.json", model_type="gpt2", n_positions=64)
    assert "the weights hold no 'wte.weight'; expected those of a gpt2 model" in refused(folder)


def test_a_decoder_has_no_start_id_and_pads_with_its_end_where_it_has_no_other(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 20}
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 7, "bos_token_id": 6}))
    ids = special_ids(tmp_path)
    assert (ids.eos, ids.pad, ids.start, ids.bos, ids.is_decoder) == ((7,), 7, None, 6, True)
    assert ids.before_answer([3, 4]) == (3, 4)

    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9], "pad_token_id": 0}')
    assert (special_ids(tmp_path).eos, special_ids(tmp_path).pad) == ((7, 9), 0)

    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match="eos None, pad None: expected token ids below vocab_size 20"):
        special_ids(tmp_path)


def test_broken_config_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5",')

    assert "not readable as JSON" in refused(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 190}, "shared.weight has the shape (200, 8), config.json states vocab_size 190 and d_model 8"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq"),
    ],
)
def test_a_config_that_is_not_its_weights_is_refused(folder: Path, fields: dict[str, object], message: str) -> None:
    edit(folder / "config.json", **fields)

    assert message in refused(folder)


def rewrite(folder: Path, rename: Callable[[str], str | None]) -> None:
    """The weights with each name as `rename` gives it; None leaves the tensor out."""
    tensors = load_file(folder / "model.safetensors")
    save_file({new: value for name, value in tensors.items() if (new := rename(name))}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: name if name.startswith(("shared", "encoder")) else None, "an encoder only"),
        (lambda name: None if name == "lm_head.weight" else name, "the weights hold no 'lm_head.weight'"),
        (lambda name: "module." + name, "its name here is 'module.shared.weight'"),
        (lambda name: None if name == "shared.weight" else name, "the weights hold no 'shared.weight'"),
    ],
)
def test_weights_of_another_model_are_refused(folder: Path, rename: Callable[[str], str | None], message: str) -> None:
    rewrite(folder, rename)

    assert message in refused(folder)


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_the_embeddings_have_three_names(folder: Path, name: str) -> None:
    rewrite(folder, lambda old: name if old == "shared.weight" else old)

    check_model_folder(folder)


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "google/flan-t5-xl"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")

    assert "an adapter of google/flan-t5-xl: merge it" in refused(tmp_path)


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.fp16.safetensors", "x.gguf"])
def test_weights_of_another_make_are_named(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)

    assert f"{name} is " in refused(folder)


def test_a_whole_file_wins_over_an_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"shared.weight": "gone.safetensors"}}')

    check_model_folder(folder)


def test_ends_beyond_the_vocabulary_are_left_out(folder: Path) -> None:
    edit(folder / "config.json", eos_token_id=[1, 200, 1, 7])
    assert special_ids(folder).eos == (1, 7)

    edit(folder / "config.json", eos_token_id=None, decoder_start_token_id=None)
    assert special_ids(folder).eos == (1,)

    edit(folder / "config.json", eos_token_id=[200])
    with pytest.raises(ModelInvalid, match="below vocab_size 200"):
        special_ids(folder)


def test_shards_must_all_be_there_and_whole(pristine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    write_random_model(folder, SHAPE, 0, shard_bytes=4000)
    check_model_folder(folder)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2

    shards[1].rename(tmp_path / "aside")
    assert f"1 of {len(shards)} shards" in refused(folder)
    assert shards[1].name in refused(folder)


def test_an_index_cannot_point_outside_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"shared.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "are missing" in refused(folder)


def test_generation_config_wins_over_config(folder: Path) -> None:
    assert special_ids(folder).eos == (1,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 5], "decoder_start_token_id": 3}')

    ids = special_ids(folder)

    assert (ids.eos, ids.pad, ids.start) == ((1, 5), 0, 3)


def test_an_unknown_kind_and_shape_are_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="path, gguf, hub, s3 or shape"):
        resolve_model("disk", "x", 0, tmp_path)
    with pytest.raises(ModelInvalid, match="did you mean 'flan-t5-small'"):
        resolve_model("shape", "flan-t5-smal", 0, tmp_path)
