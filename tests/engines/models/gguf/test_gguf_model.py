"""A GGUF file as a model: kind, context, tokenizer and template from its metadata; damaged files in one sentence."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from engines.api import Capabilities
from engines.errors import ModelInvalid
from engines.foreign_servers.llamacpp.tokenizer_check import texts
from engines.models.checkpoint.kind import model_kind
from engines.models.checkpoint.special_ids import special_ids
from engines.models.folder import check_model_folder, resolve_model
from engines.models.gguf.as_folder import dtype_of, gguf_file, gguf_folder
from engines.models.gguf.cache import gguf_model
from engines.models.gguf.tokenizer import tokenizer_json
from engines.models.tokenizer import Tokenizer
from engines.spec_check import able_with, why_not, why_not_model
from harness.errors import ScenarioError
from harness.scenario.resolve import digest_of
from harness.space.check_files import checked_scenario

SCENARIO = "name: s\nmodel: {path: %s}\nspace: [{engine: fake}]\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("gguf") is None:
        pytest.skip("gguf is not installed: pip install '.[llamacpp]'")
    from tests.engines.models.decoder_folders import write_decoder

    return write_decoder(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "tiny.Q8_0.gguf"
    path.write_bytes(gguf_model(checkpoint, "int8", tmp_path_factory.mktemp("cache"), "llamacpp").read_bytes())
    return path


@pytest.mark.heavy
def test_its_folder_states_what_the_checkpoint_does(checkpoint: Path, file: Path, tmp_path: Path) -> None:
    folder = resolve_model("gguf", str(file), 0, tmp_path)
    assert (folder.name, gguf_file(folder)) == ("tiny.Q8_0", file)
    own = model_kind(checkpoint)
    expected = replace(own, rope_type="", dtype="int8", is_tied=False, gguf_weights="q8_0")
    assert replace(model_kind(folder), is_tied=False) == expected
    assert set(special_ids(folder).eos) == set(special_ids(checkpoint).eos)
    assert (folder / "chat_template.jinja").read_text() == (checkpoint / "chat_template.jinja").read_text()
    ours, theirs = Tokenizer.load(folder), Tokenizer.load(checkpoint)
    assert [ours.encode(text) for text in texts()] == [theirs.encode(text) for text in texts()]
    assert gguf_folder(file, tmp_path) == folder
    file.rename(file.with_suffix(".moved"))
    with pytest.raises(ModelInvalid, match=r"tiny\.Q8_0\.gguf: No such file .*; it was there before"):
        check_model_folder(folder)
    file.with_suffix(".moved").rename(file)


@pytest.mark.heavy
def test_damaged_files_are_one_sentence(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    for cut, sentence in (
        (content[: len(content) // 2], "its header promises"),
        (content[:300], "the file ends within its header"),
        (content[:4] + b"\x09" + content[5:], "GGUF version 9, expected 2 or 3"),
        (b"PK" + content, r"expected a GGUF file, got one that begins with b'PKGG'"),
        (b"", "not a readable GGUF file"),
        (content.replace(b"_token_id", b"_tokex_id"), "expected tokenizer.ggml.eos_token_id in its metadata"),
        (content.replace(b"llama", b"rwkv7"), "general.architecture is 'rwkv7', expected one of llama, qwen2"),
    ):
        path = tmp_path / "cut.gguf"
        path.write_bytes(cut)
        with pytest.raises(ModelInvalid, match=sentence) as caught:
            gguf_folder(path, tmp_path / "cache")
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelInvalid, match=r"no-such\.gguf: No such file or directory; expected a GGUF file"):
        gguf_folder(tmp_path / "no-such.gguf", tmp_path)


def test_a_folder_of_gguf_files_names_one(tmp_path: Path) -> None:
    (tmp_path / "a.Q4_0.gguf").touch()
    with pytest.raises(ModelInvalid, match=r"holds GGUF files and no config\.json; name one of them, such as .*/a\.Q4"):
        check_model_folder(tmp_path)


@pytest.mark.heavy
def test_only_an_engine_that_reads_gguf_serves_it_and_in_its_own_dtype(file: Path, tmp_path: Path) -> None:
    kind = model_kind(gguf_folder(file, tmp_path))
    able = Capabilities(effective_dtypes={"fp32": "fp32", "int8": "q8_0 weights, f16 KV"}, model_kinds=("decoder",))
    assert why_not_model("vllm", kind, able) == "vllm reads Hugging Face folders, no GGUF file; llamacpp serves one"
    reads = replace(able, reads_gguf=True, architectures=("qwen2",))
    assert why_not_model("llamacpp", kind, reads) == ""
    known = able_with(kind, reads)
    assert known.effective_dtypes == {"int8": "q8_0 weights, f16 KV"}
    assert why_not("llamacpp", "dtype", "fp32", known) == "the GGUF file has q8_0 weights; it accepts int8 here"


@pytest.mark.parametrize(
    ("weights", "dtype"),
    [("f32", "fp32"), ("f16", "fp16"), ("bf16", "bf16"), ("q8_0", "int8"), ("q6_k", "int8"), ("q4_k", "int4"),
     ("q5_k", "int4"), ("q4_1", "int4")],
)  # fmt: skip
def test_a_type_of_weights_has_a_word_of_the_dtype_axis(weights: str, dtype: str) -> None:
    assert dtype_of(weights) == dtype


def test_a_tokenizer_that_is_not_byte_level_is_left_to_the_server() -> None:
    assert tokenizer_json({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]}) is None
    assert tokenizer_json({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "odd"}) is None


def test_its_quality_needs_a_named_reference(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    path = tmp_path / "s.yaml"
    space = "name: s\nmodel: {path: m.gguf}\nspace: [{engine: llamacpp}]\nconstraints: {quality: Normal}\n"
    path.write_text(space)
    with pytest.raises(ScenarioError, match=r"s\.yaml:4: constraints\.quality: .* a GGUF file does not answer in fp32"):
        checked_scenario(path)
    path.write_text(space + "quality: {reference_folder: nowhere}\n")
    with pytest.raises(ScenarioError, match=r"quality\.reference_folder: expected a Hugging Face model folder"):
        checked_scenario(path)
    (tmp_path / "nowhere").mkdir()
    resolved = checked_scenario(path)
    assert (resolved.model.kind, resolved.reference_folder) == ("gguf", tmp_path / "nowhere")
    path.write_text(space + "quality: {reference_folder: nowhere, reference: {url: 'http://h'}}\n")
    with pytest.raises(ScenarioError, match="expected one of reference and reference_folder"):
        checked_scenario(path)
    path.write_text(SCENARIO % "gone.gguf")
    with pytest.raises(ScenarioError, match=r"model\.path: expected a GGUF file, got .*gone\.gguf"):
        checked_scenario(path)


def test_the_digest_of_other_scenarios_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nspace: [{engine: fake}]\n")
    scenario = checked_scenario(path).scenario
    named = scenario.model_copy(update={"quality": scenario.quality.model_copy(update={"reference_folder": "x"})})
    assert digest_of(scenario) != digest_of(named)
    assert "reference_folder" not in checked_scenario(path).as_dict()["resolved"]
