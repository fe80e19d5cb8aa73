"""A context that is too short for a prompt and its answer is refused with the numbers, before anything is launched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.models.random_bpe import write_bpe_tokenizer
from harness.errors import ScenarioError
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.scenario.schema import Scenario
from harness.space.context import check_context

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 40, "vocab_size": 300}


def asked(folder: Path, new: int) -> ResolvedScenario:
    lines = [{"id": "short", "prompt": "a b"}, {"id": "long", "prompt": "?" * 20}]
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    workload = {"prompts": "prompts.jsonl", "parameters": {"max_new_tokens": new}}
    of = Scenario.model_validate({"name": "s", "space": [{"engine": "transformers"}], "workload": workload})
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
