"""SentencePiece's tokenizer in a GGUF file: SentencePiece's own ids, and those of llama.cpp's server."""

from __future__ import annotations

import json
import random
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engines.api import EngineSpec
from engines.errors import ModelInvalid
from engines.foreign_servers.llamacpp.engine import LlamaCppEngine
from engines.foreign_servers.llamacpp.tokenizer_check import texts
from engines.launching import load_engine
from engines.models.gguf.as_folder import gguf_folder
from engines.models.gguf.tokenizer import gguf_tokenizer, tokenizer_json
from engines.models.tokenizer import Tokenizer
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.space.plan_text import prompts_text

STATED = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab", "aab"],
    "tokenizer.ggml.token_type": [2, 3, *[6] * 256, 1, 1, 1, 1],
    "tokenizer.ggml.scores": [0.0, 0.0, *[0.0] * 256, -3.0, -4.0, -2.0, -1.0],
    "tokenizer.ggml.bos_token_id": 1,
}


def test_merges_are_every_way_to_a_token_best_scores_first() -> None:
    found = tokenizer_json(STATED)
    assert found is not None
    assert found["model"]["merges"] == [["a", "ab"], ["a", "b"]]
    assert found["model"]["byte_fallback"]
    assert [each["content"] for each in found["added_tokens"]] == ["<unk>", "<s>"]
    assert found["post_processor"]["special_tokens"]["<s>"]["ids"] == [1]


@pytest.mark.parametrize("lost", ["scores", "token_type"])
def test_one_without_scores_or_bytes_is_left_to_the_server(lost: str) -> None:
    assert tokenizer_json({key: value for key, value in STATED.items() if not key.endswith(lost)}) is None


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no prefix"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A GGUF file, and the SentencePieceProcessor that its tokens are from."""
    for name in ("gguf", "sentencepiece"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install '.[llamacpp,transformers]'")
    from tests.engines.models.gguf.piece_files import pieces_of, write_piece_file

    folder = tmp_path_factory.mktemp("pieces")
    pieces = pieces_of(folder, has_prefix=request.param)
    write_piece_file(folder / "m.gguf", pieces, has_prefix=request.param)
    return folder / "m.gguf", pieces


@pytest.mark.heavy
def test_its_ids_are_sentencepieces_own(made: tuple[Path, Any], tmp_path: Path) -> None:
    file, pieces = made
    tokenizer = Tokenizer.load(gguf_folder(file, tmp_path))
    rng = random.Random(3)
    mixed = ["".join(rng.choices(texts(), k=3)) for _ in range(300)]
    for text in (*texts(), *mixed, "aaaaa", "   x", "\n \n"):
        assert tokenizer.encode(text) == (pieces.bos_id(), *pieces.encode(text)), text
        assert tokenizer.decode(tokenizer.encode(text)) == pieces.decode(pieces.encode(text)), text


@pytest.mark.heavy
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install '.[llamacpp]'")
def test_llama_cpps_server_counts_the_same(made: tuple[Path, Any], tmp_path: Path) -> None:
    folder = gguf_folder(made[0], tmp_path / "cache")
    spec = EngineSpec(engine="llamacpp", model_dir=folder, threads=1)
    with load_engine("llamacpp").launch(spec, tmp_path / "work", 60.0) as running:
        assert not [note for note in running.facts.notes if "tokens" in note and "slot" not in note]


@pytest.mark.heavy
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install '.[llamacpp]'")
def test_a_folder_with_such_a_tokenizer_is_written_and_served(made: tuple[Path, Any], tmp_path: Path) -> None:
    """Before it serves, its server's ids of 200 texts are compared with the folder's."""
    from tests.engines.models.decoder_folders import write_decoder

    folder = write_decoder(tmp_path / "mistral", "mistral", vocab_size=900, sliding_window=None)
    shutil.copy(gguf_folder(made[0], tmp_path / "cache") / "tokenizer.json", folder / "tokenizer.json")
    spec = EngineSpec(engine="llamacpp", model_dir=folder, threads=1)
    with load_engine("llamacpp").launch(spec, tmp_path / "work", 60.0) as running:
        assert running.facts.converted_dir


def _content(**changes: Any) -> dict[str, Any]:
    found = tokenizer_json(STATED)
    assert found is not None
    return {**found, **changes}


def _metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}


@pytest.mark.parametrize(
    ("changes", "prefix"),
    [
        ({}, True),
        ({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}}, False),
        ({"normalizer": None, "pre_tokenizer": _metaspace("always")}, True),
        ({"normalizer": None, "pre_tokenizer": _metaspace("never")}, False),
    ],
)
def test_a_folders_tokenizer_has_scores_in_the_order_of_its_merges(
    changes: dict[str, Any], prefix: bool, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(_content(**changes)))
    found = gguf_tokenizer(tmp_path, 263)
    assert (found.model, found.has_prefix, found.bos, found.merges) == ("llama", prefix, 1, ())
    assert found.types == (2, 3, *[6] * 256, 1, 1, 1, 1, 5)
    assert found.scores[-2] > found.scores[-3] > found.scores[-4]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pre_tokenizer": _metaspace("first"), "normalizer": None}, "it puts a blank before the first word alone"),
        ({"normalizer": {"type": "NFKC"}}, "it changes or splits a text otherwise"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "it changes or splits a text otherwise"),
    ],
)
def test_one_that_does_more_to_a_text_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(_content(**changes)))
    with pytest.raises(ModelInvalid, match=why):
        gguf_tokenizer(tmp_path, 262)


@pytest.mark.heavy
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install '.[llamacpp]'")
def test_a_vocabulary_that_the_installed_llama_cpp_does_not_read_is_one_sentence_before_the_launch(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    from tests.engines.models.gguf.piece_files import write_piece_file

    odd, other = tmp_path / "odd.gguf", tmp_path / "other.gguf"
    write_piece_file(odd, made[1], model="gpt2", pre="nobody-knows-it")
    write_piece_file(other, made[1], model="gpt2", pre="deepseek-llm")
    with pytest.raises(ModelInvalid) as caught:
        LlamaCppEngine().check_folder(gguf_folder(odd, tmp_path / "cache"))
    why = "llama.cpp does not read its vocabulary: unknown pre-tokenizer type: 'nobody-knows-it'; another build may"
    assert str(caught.value) == f"{odd}: {why}"

    LlamaCppEngine().check_folder(gguf_folder(other, tmp_path / "cache"))
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nmodel: {path: other.gguf}\nspace: [{engine: llamacpp}]\n")
    text = prompts_text(resolve(load_scenario(path, ()), path), None)
    assert "their tokens not counted (the file's tokenizer is not known here)" in text
