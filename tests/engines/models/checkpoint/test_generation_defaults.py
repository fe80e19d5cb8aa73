"""generation_config.json: what is obeyed as Hugging Face does, and what is named as not obeyed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.models.checkpoint.generation_defaults import generation_defaults, model_notes
from engines.server.body import parse_body

SUMMARIZER = {"num_beams": 4, "no_repeat_ngram_size": 2, "max_length": 21, "min_length": 5, "eos_token_id": 1}


def folder(where: Path, generation: dict[str, Any] | None, **config: Any) -> Path:
    (where / "config.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 99, **config}))
    if generation is not None:
        (where / "generation_config.json").write_text(json.dumps(generation))
    return where


def test_a_summarizers_entries_hold_and_are_named(tmp_path: Path) -> None:
    found = generation_defaults(folder(tmp_path, SUMMARIZER))

    assert found.values == {"num_beams": 4, "no_repeat_ngram_size": 2, "max_new_tokens": 20, "min_new_tokens": 4}
    assert found.ignored == {}
    assert found.notes == (
        "generation_config.json: num_beams 4, no_repeat_ngram_size 2, max_new_tokens 20, min_new_tokens 4, where a "
        "request gives no other",
    )


def test_a_decoder_is_greedy_unless_a_request_asks_and_its_whole_length_is_no_answers_length(tmp_path: Path) -> None:
    published = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}
    found = generation_defaults(folder(tmp_path, published, model_type="llama"))

    assert found.values == {"temperature": 0.6, "top_p": 0.9}
    assert found.ignored == {"do_sample": True, "max_length": 4096}


def test_config_json_counts_only_without_a_generation_config(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = generation_defaults(folder(tmp_path / "old", None, num_beams=4, length_penalty=0.6))
    new = generation_defaults(folder(tmp_path / "new", {"eos_token_id": 1}, num_beams=4, length_penalty=0.6))

    assert (old.source, old.values) == ("config.json", {"num_beams": 4, "length_penalty": 0.6})
    assert new.values == {}
    assert new.notes == ()


@pytest.mark.parametrize(
    ("entry", "value"),
    [("forced_bos_token_id", 5), ("suppress_tokens", [3]), ("num_return_sequences", 2), ("typical_p", 0.9),
     ("num_beams", 0), ("temperature", "hot"), ("top_p", 1.5), ("max_length", 0.5)],
)  # fmt: skip
def test_an_entry_that_is_not_obeyed_is_named(entry: str, value: object, tmp_path: Path) -> None:
    found = generation_defaults(folder(tmp_path, {entry: value}))

    assert found.values == {}
    assert found.notes == (f"generation_config.json: not obeyed: {entry} {json.dumps(value)}",)


def test_entries_that_change_nothing_are_not_named(tmp_path: Path) -> None:
    plain = {"num_beams": 1, "do_sample": False, "temperature": 1.0, "typical_p": 1.0, "suppress_tokens": None,
             "num_return_sequences": 1, "transformers_version": "4.27.0", "use_cache": True}  # fmt: skip
    assert generation_defaults(folder(tmp_path, plain)).notes == ()


def test_sampling_with_beams_keeps_the_beams(tmp_path: Path) -> None:
    found = generation_defaults(folder(tmp_path, {"num_beams": 2, "do_sample": True}))

    assert found.values == {"num_beams": 2}
    assert "not obeyed: do_sample true" in found.notes[1]


def test_an_adapter_beside_the_weights_is_named(tmp_path: Path) -> None:
    folder(tmp_path, None)
    (tmp_path / "adapter_config.json").write_text("{}")

    assert "adapter" in model_notes(tmp_path)[0]


def test_a_request_wins_over_the_models_entries(tmp_path: Path) -> None:
    defaults = generation_defaults(folder(tmp_path, SUMMARIZER)).values

    left_out = parse_body(b'{"inputs": "a"}', defaults).params
    given = parse_body(b'{"inputs": "a", "parameters": {"num_beams": 1, "max_new_tokens": 2}}', defaults).params

    assert (left_out.num_beams, left_out.max_new_tokens, left_out.min_new_tokens) == (4, 20, 4)
    assert (given.num_beams, given.no_repeat_ngram_size) == (1, 2)
    assert (given.max_new_tokens, given.min_new_tokens) == (2, 2)  # as in Hugging Face the end stays forbidden
