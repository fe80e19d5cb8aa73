"""Prompts of a chat: rendered by the model's own template, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.api import Capabilities, Endpoint
from engines.models.chat_template import ChatTemplate
from engines.models.tokenizer import Tokenizer
from harness.errors import ScenarioError
from harness.scenario.resolve import BUNDLED_DECODER, BUNDLED_MODEL, ResolvedScenario, resolve
from harness.scenario.schema import Scenario
from harness.space.candidates import plan_space
from harness.space.chat import prompts_of
from harness.trial.endpoint_form import asked, chat_notes

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 40, "vocab_size": 300}


def _resolved(tmp_path: Path, engine: str = "transformers", **workload: Any) -> ResolvedScenario:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "spell: 42"}\n')
    fields = {"prompts": "prompts.jsonl", "chat": True} | workload
    model = {"bundled": "decoder"}
    scenario = {"name": "s", "model": model, "space": [{"engine": engine}], "workload": fields}
    return resolve(Scenario.model_validate(scenario), tmp_path / "s.yaml")


def test_each_prompt_is_one_user_message_in_the_template(tmp_path: Path) -> None:
    (prompt,) = prompts_of(_resolved(tmp_path), BUNDLED_DECODER)
    expected = ChatTemplate.load(BUNDLED_DECODER).render([{"role": "user", "content": "spell: 42"}])
    assert prompt.text == "spell: 42"
    assert prompt.model_text == prompt.rendered == expected
    assert len(Tokenizer.load(BUNDLED_DECODER).encode_rendered(expected)) > len("spell: 42") // 4
    assert prompts_of(_resolved(tmp_path, chat=False), BUNDLED_DECODER)[0].model_text == "spell: 42"
    assert prompts_of(_resolved(tmp_path), None)[0].rendered is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "expected a decoder-only model with a chat template"),
        ("{{ raise_exception('no user') }}", "the model's chat template refuses them: no user"),
        ("{% for %}", "the chat template cannot be read"),
    ],
)
def test_a_template_that_is_missing_or_refuses_is_one_sentence(
    tmp_path: Path, template: str | None, message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    if template is not None:
        (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ScenarioError, match=r"s\.yaml: workload\.chat: ") as caught:
        prompts_of(_resolved(tmp_path), tmp_path)
    assert message in str(caught.value)


def test_an_encoder_decoder_model_has_no_chat(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="expected a decoder-only model with a chat template"):
        prompts_of(_resolved(tmp_path), BUNDLED_MODEL)


@pytest.mark.parametrize(
    "more",
    [
        {"inputs_per_request": 2},
        {"template": {"body": '"{prompt}"', "answer": "a"}},
        {"load": {"kind": "trace", "path": "t"}},
    ],
)
def test_what_no_chat_can_have_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expected one prompt in each request of this tool's own beside chat"):
        _resolved(tmp_path, "attach", **more)


def test_an_engine_whose_server_reads_plain_prompts_is_left_out(tmp_path: Path) -> None:
    able = Capabilities(effective_dtypes={"fp32": "fp32"})
    (gone,) = plan_space(_resolved(tmp_path, "djl"), lambda *_: able, cores=2).pruned
    assert gone.reason == "djl takes no chat: its server reads plain prompts"


@pytest.mark.parametrize(
    ("protocol", "sent", "who"),
    [
        ("djl", "djl", "dyno, before sending"),
        ("openai", "openai-chat", "its server"),
        ("openai-chat", "openai-chat", "its server"),
    ],
)
def test_servers_with_a_chat_of_their_own_apply_the_template(
    tmp_path: Path, protocol: str, sent: str, who: str
) -> None:
    endpoint = Endpoint(url="http://127.0.0.1:1", protocol=protocol)
    workload = _resolved(tmp_path).scenario.workload
    assert asked(endpoint, workload, "transformers")["protocol"] == sent
    assert chat_notes(endpoint, workload) == (f"chat: the template was applied by {who}; input tokens count it",)
    plain = _resolved(tmp_path, chat=False).scenario.workload
    assert asked(endpoint, plain, "transformers")["protocol"] == protocol
    assert chat_notes(endpoint, plain) == ()
