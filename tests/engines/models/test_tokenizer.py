"""Encoding closes with eos once; decoding leaves special tokens out; broken files are one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines.errors import ModelInvalid
from engines.models.tokenizer import Tokenizer
from tests.engines.models.t5_folders import BUNDLED

pytestmark = pytest.mark.heavy


def test_ids_close_with_one_eos_and_come_back_as_text() -> None:
    tokenizer = Tokenizer.load(BUNDLED)

    ids = tokenizer.encode("date: 04/12/1987")

    assert ids[-1] == 1
    assert ids.count(1) == 1
    assert tokenizer.decode(ids) == "date: 04/12/1987"
    assert tokenizer.decode((0, *ids, 0, 0)) == "date: 04/12/1987"
    assert tokenizer.encode("") == (1,)


def test_the_tokenizers_own_end_counts_where_the_model_has_several(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED, tmp_path / "model"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [631, 1]}')

    assert Tokenizer.load(folder).encode("date: 1") == Tokenizer.load(BUNDLED).encode("date: 1")


def test_ids_are_those_of_transformers() -> None:
    from transformers import AutoTokenizer

    text = "rewrite: I won't weigh the yellow printer w/o info."
    assert list(Tokenizer.load(BUNDLED).encode(text)) == AutoTokenizer.from_pretrained(str(BUNDLED))(text).input_ids


def test_transformers_is_not_imported_where_tokenizer_json_exists() -> None:
    code = (
        "import sys; from pathlib import Path; from engines.models.tokenizer import Tokenizer; "
        f"Tokenizer.load(Path({str(BUNDLED)!r})).encode('x'); "
        "assert 'transformers' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_ids_beyond_the_vocabulary_decode_to_nothing() -> None:
    assert Tokenizer.load(BUNDLED).decode((100_000, 1)) == ""


def test_a_broken_tokenizer_file_is_one_sentence(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED, tmp_path / "model"))
    (folder / "tokenizer.json").write_text("{")

    with pytest.raises(ModelInvalid, match="not a readable tokenizer"):
        Tokenizer.load(folder)


def test_no_tokenizer_at_all_is_one_sentence(tmp_path: Path) -> None:
    shutil.copy(BUNDLED / "config.json", tmp_path)

    with pytest.raises(ModelInvalid, match=r"no tokenizer; expected one of tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_byt5_needs_no_vocabulary_file(tmp_path: Path) -> None:
    shutil.copy(BUNDLED / "config.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))

    tokenizer = Tokenizer.load(tmp_path)

    assert tokenizer.encode("hi") == (ord("h") + 3, ord("i") + 3, 1)
    assert tokenizer.decode((ord("h") + 3, 1)) == "h"
