"""Any value of any key in a model folder's JSON files is read, or refused in one sentence: no other exception."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.errors import ModelInvalid
from engines.models.chat_template import special_tokens
from engines.models.checkpoint.generation_defaults import model_notes
from engines.models.checkpoint.special_ids import special_ids
from engines.models.folder import check_model_folder
from harness.scenario.resolve import BUNDLED_DECODER, BUNDLED_MODEL

ODD = [None, True, -1, 10**30, 1.5, "x", "\ud800", [], [[1]], [{}], {}]
MORE = ("quantization_config", "rope_scaling", "text_config", "architectures", "eos_token_id", "num_beams",
        "max_length", "forced_eos_token_id", "sliding_window", "layer_types", "is_gated_act",
        "feed_forward_proj")  # fmt: skip
"""Keys that these folders leave out and others have."""


def _odd(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`whole` with one key set to one odd value, each key to each of them."""
    for key in (*whole, *(name for name in MORE if name not in whole)):
        yield from ({**whole, key: value} for value in ODD)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("model", [BUNDLED_MODEL, BUNDLED_DECODER], ids=lambda model: model.name)
def test_an_odd_value_is_read_or_refused(model: Path, name: str, tmp_path: Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    whole = json.loads((model / name).read_text())
    (tmp_path / name).unlink()
    sentences: set[str] = set()
    for odd in _odd(whole):
        (tmp_path / name).write_text(json.dumps(odd))
        for read in (check_model_folder, special_ids, model_notes, special_tokens):
            try:
                read(tmp_path)
            except ModelInvalid as refusal:
                sentences.add(str(refusal))
    assert not [sentence for sentence in sentences if "\n" in sentence]


@pytest.mark.parametrize(
    ("name", "field", "sentence"),
    [
        ("config.json", {"model_type": ["t5"]}, "model_type is ['t5'], expected one of "),
        ("generation_config.json", {"eos_token_id": [[1]]}, "eos [[1]], pad 0, decoder start 0: expected token ids"),
        ("generation_config.json", {"pad_token_id": "0"}, "correct config.json, or generation_config.json which goes"),
    ],
)
def test_what_is_refused_is_named(name: str, field: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    for file in BUNDLED_MODEL.iterdir():
        (tmp_path / file.name).symlink_to(file)
    whole = json.loads((BUNDLED_MODEL / name).read_text())
    (tmp_path / name).unlink()
    (tmp_path / name).write_text(json.dumps(whole | field))
    with pytest.raises(ModelInvalid) as refusal:
        special_ids(tmp_path)
    assert sentence in str(refusal.value)
