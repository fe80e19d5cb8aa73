"""A context that is too short for a prompt and its answer is refused with the numbers, before anything is launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.models.checkpoint.kind import model_kind
from engines.models.random_weights.decoder_tokenizer import write_bpe_tokenizer
from harness.errors import ScenarioError
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.scenario.schema import Scenario
from harness.space.context import check_context, most_tokens

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 40, "vocab_size": 300}


def asked(folder: Path, new: int, **more: Any) -> ResolvedScenario:
    lines = [{"id": "short", "prompt": "a b"}, {"id": "long", "prompt": "?" * 20}]
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    workload = {"prompts": "prompts.jsonl", "parameters": {"max_new_tokens": new}, **more}
    space = [{"engine": "transformers"}]
    of = Scenario.model_validate({"name": "s", "model": {"path": "."}, "space": space, "workload": workload})
    return resolve(of, folder / "s.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    write_bpe_tokenizer(tmp_path, 300)
    return tmp_path


def test_the_longest_prompt_is_named(folder: Path) -> None:
    check_context(asked(folder, 19), folder)  # 20 marks and the <s> before them, 40 in all
    with pytest.raises(ScenarioError) as caught:
        check_context(asked(folder, 20), folder)
    message = str(caught.value)
    assert "prompt 'long'" in message
    assert "the prompt's 21 tokens and max_new_tokens 20 make 41, the model's context holds 40" in message
    assert str(folder / "s.yaml") in message


def test_a_model_without_such_a_limit_takes_any_length(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    check_context(asked(folder, 10_000), folder)


def test_the_longest_request_is_counted_for_decoder_only_models(folder: Path) -> None:
    def most(**more: Any) -> int | None:
        return most_tokens(asked(folder, 9, **more), model_kind(folder))

    assert most() == 21 + 9
    mistral = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    mistral |= {"max_position_embeddings": 40, "vocab_size": 300, "sliding_window": 12}
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral", **mistral}))
    assert most() == 21 + 9
    (folder / "trace.csv").write_text("timestamp_s,input_len\n0,5\n")
    assert most(load={"kind": "trace", "path": "trace.csv"}) is None
    (folder / "tokenizer.json").unlink()
    assert most() == 1 + 9
    shape = Scenario.model_validate({"name": "s", "model": {"shape": "llama-3.1-8b"}, "space": [{"engine": "vllm"}]})
    assert most_tokens(resolve(shape, folder / "s.yaml"), model_kind(folder)) == 1 + 80
