"""The kind of a model from its config.json: sizes of every family, what files leave out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import DECODER, DECODER_TYPES, SEQ2SEQ, ModelKind, model_kind, why_too_long

PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "flan-t5-small": (
        {"model_type": "t5", "d_model": 512, "d_kv": 64, "num_heads": 6, "num_layers": 8, "num_decoder_layers": 8,
         "n_positions": 512, "vocab_size": 32128, "tie_word_embeddings": False},
        {"name": SEQ2SEQ, "layers": 8, "heads": 6, "kv_heads": 6, "head_dim": 64, "hidden": 512, "max_positions": None,
         "is_tied": False, "traits": ()},
    ),
    "gpt2": (
        {"model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
         "vocab_size": 50257},
        {"layers": 12, "heads": 12, "kv_heads": 12, "head_dim": 64, "hidden": 768, "max_positions": 1024,
         "is_tied": True, "sliding_window": None, "traits": ()},
    ),
    "bloom-560m": (
        {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250880,
         "seq_length": 2048},
        {"layers": 24, "heads": 16, "head_dim": 64, "hidden": 1024, "max_positions": None, "is_tied": True},
    ),
    "llama-3.2-1b": (
        {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "vocab_size": 128256,
         "tie_word_embeddings": True, "torch_dtype": "bfloat16",
         "rope_scaling": {"rope_type": "llama3", "factor": 32.0}},
        {"kv_heads": 8, "head_dim": 64, "max_positions": 131072, "dtype": "bf16", "is_tied": True,
         "rope_type": "llama3", "traits": ("rope_llama3", "grouped_heads")},
    ),
    "mistral-7b-v0.3": (
        {"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "max_position_embeddings": 32768, "vocab_size": 32768, "sliding_window": None},
        {"sliding_window": None, "head_dim": 128},
    ),
    "qwen2.5-0.5b": (
        {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
         "num_key_value_heads": 2, "max_position_embeddings": 32768, "vocab_size": 151936, "sliding_window": 32768,
         "use_sliding_window": False, "tie_word_embeddings": True},
        {"sliding_window": None, "kv_heads": 2, "head_dim": 64},
    ),
    "phi-3-mini-128k": (
        {"model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 32, "max_position_embeddings": 131072, "vocab_size": 32064, "sliding_window": 262144,
         "rope_scaling": {"type": "su"}},
        {"rope_type": "longrope", "sliding_window": 262144, "head_dim": 96},
    ),
    "gemma-3-4b": (
        {"model_type": "gemma3", "eos_token_id": [1, 106],
         "text_config": {"hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024,
                         "model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}},
        {"layers": 34, "heads": 8, "kv_heads": 4, "head_dim": 256, "vocab_size": 262208, "max_positions": 131072,
         "sliding_window": 1024, "is_tied": True,
         "traits": ("sliding_window", "rope_linear", "head_dim", "grouped_heads")},
    ),
}  # fmt: skip
"""Published config.json files, cut to what is read, and what they mean."""


def written(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_fourteen_families_and_the_wrapper_of_gemma_3_are_known() -> None:
    assert len(DECODER_TYPES) == 15


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_published_models(name: str, tmp_path: Path) -> None:
    config, expected = PUBLISHED[name]
    kind = model_kind(written(tmp_path, config))
    assert {field: getattr(kind, field) for field in expected} == expected
    assert kind.is_decoder == (name != "flan-t5-small")


def test_a_chat_template_is_found_in_either_place(tmp_path: Path) -> None:
    folder = written(tmp_path, PUBLISHED["gpt2"][0])
    assert not model_kind(folder).has_chat_template
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert model_kind(folder).has_chat_template
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert model_kind(folder).has_chat_template


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba', expected one of t5, mt5, umt5, gpt2"),
        ({"n_layer": "12"}, "n_layer is '12', expected a whole number"),
        ({"n_head": True}, "n_head is True, expected a whole number"),
        ({"vocab_size": None}, "expected one of vocab_size, got none"),
        ({"num_key_value_heads": 5}, "12 heads cannot share 5 key-value heads"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_sentence(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    folder = written(tmp_path, PUBLISHED["gpt2"][0] | change)
    with pytest.raises(ModelInvalid) as caught:
        model_kind(folder)
    assert expected in str(caught.value)
    assert str(folder / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_context_that_prompt_and_answer_share_is_refused_with_the_numbers() -> None:
    assert why_too_long(60, 68, 128) == ""
    assert why_too_long(10**6, 1, None) == ""
    assert why_too_long(60, 69, 128) == (
        "the prompt's 60 tokens and max_new_tokens 69 make 129, the model's context holds 128; "
        "shorten the prompt or lower max_new_tokens"
    )


def test_a_kind_is_a_plain_record() -> None:
    sizes = {"layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 4, "hidden": 8, "vocab_size": 16}
    assert ModelKind(name=DECODER, model_type="gpt2", **sizes).traits == ()
