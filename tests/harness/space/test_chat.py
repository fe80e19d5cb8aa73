"""Prompts of a chat: rendered by the model's own template, or refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.api import Capabilities, Endpoint
from engines.models.chat_template import ChatTemplate
from engines.models.tokenizer import Tokenizer
from harness.errors import ScenarioError
from harness.load.plan import LoadPlan
from harness.records import ChatFacts
from harness.scenario.resolve import BUNDLED_DECODER, BUNDLED_MODEL, ResolvedScenario, resolve
from harness.scenario.schema import Scenario
from harness.space.candidates import plan_space
from harness.space.chat import around_of, prompts_of
from harness.space.context import check_context
from harness.space.plan_text import prompts_text
from harness.trial.endpoint_form import asked, chat_facts
from harness.wording import chat_text
from tests.harness.load.plans import plan_of

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 40, "vocab_size": 300}


PLAIN = {"prompt": "spell: 42"}


def _resolved(
    tmp_path: Path, engine: str = "transformers", rows: Sequence[dict[str, Any]] = (PLAIN,), **workload: Any
) -> ResolvedScenario:
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
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
        ("{{ raise_exception('no user') }}", "'line-1': messages: the model's chat template refuses them: no user"),
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


def test_a_shape_published_without_template_takes_no_chat_and_one_with_it_does() -> None:
    def prompts(shape: str) -> int:
        of = {"name": "s", "model": {"shape": shape}, "workload": {"chat": True}, "space": [{"engine": "transformers"}]}
        return len(prompts_of(resolve(Scenario.model_validate(of), Path("s.yaml")), None))

    assert prompts("smollm2-135m") > 0
    with pytest.raises(ScenarioError, match="model with a chat template, shape opt-125m has none; remove workload"):
        prompts("opt-125m")


def test_a_text_of_a_length_stands_inside_the_template(tmp_path: Path) -> None:
    before, behind = around_of(_resolved(tmp_path, lengths={"input": 64}), BUNDLED_DECODER) or ("", "")
    assert before + "spell: 42" + behind == prompts_of(_resolved(tmp_path), BUNDLED_DECODER)[0].rendered
    assert around_of(_resolved(tmp_path), BUNDLED_DECODER) is None
    assert around_of(_resolved(tmp_path, lengths={"input": 64}), None) is None
    folder = tmp_path / "shouts"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GPT2))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content | upper }}")
    with pytest.raises(ScenarioError, match="a chat template that writes a message as it is beside inputs of a length"):
        around_of(_resolved(tmp_path, lengths={"input": 64}), folder)


def test_an_encoder_decoder_model_has_no_chat(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="expected a decoder-only model with a chat template"):
        prompts_of(_resolved(tmp_path), BUNDLED_MODEL)


@pytest.mark.parametrize(
    "more",
    [
        {"inputs_per_request": 2},
        {"template": {"body": '"{prompt}"', "answer": "a"}},
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
    ("protocol", "sent", "who", "named"),
    [
        ("djl", "djl", "dyno", "dyno, before sending"),
        ("openai", "openai-chat", "server", "its server"),
        ("openai-chat", "openai-chat", "server", "its server"),
    ],
)
def test_servers_with_a_chat_of_their_own_apply_the_template(
    tmp_path: Path, protocol: str, sent: str, who: str, named: str
) -> None:
    endpoint = Endpoint(url="http://127.0.0.1:1", protocol=protocol)
    workload = _resolved(tmp_path).scenario.workload
    assert asked(endpoint, workload, "transformers")["protocol"] == sent
    assert chat_facts(endpoint, workload, ()) == ChatFacts(template_by=who)
    facts = chat_facts(endpoint, workload, (9, 3, 5, 4))
    assert facts == ChatFacts(template_by=who, tokens_p50=4, tokens_max=9)
    assert chat_text(facts) == (
        f"the template was applied by {named}; input tokens count it; prompts of 4 tokens (P50), 9 at most"
    )
    plain = _resolved(tmp_path, chat=False).scenario.workload
    assert asked(endpoint, plain, "transformers")["protocol"] == protocol
    assert chat_facts(endpoint, plain, ()) is None


TALK: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "spell: 42"},
        {"role": "assistant", "content": "forty-two"},
        {"role": "user", "content": "spell: 7"},
        {"role": "assistant", "content": "seven"},
    ]
}
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}" \
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"  # fmt: skip


def test_a_conversation_is_rendered_up_to_its_last_question_and_counted_in_the_plan(tmp_path: Path) -> None:
    resolved = _resolved(tmp_path, rows=(PLAIN, TALK))
    plain, talk = prompts_of(resolved, BUNDLED_DECODER)
    asked_of = TALK["messages"][:-1]
    assert talk.rendered == ChatTemplate.load(BUNDLED_DECODER).render(asked_of)
    assert [{"role": role, "content": text} for role, text in talk.turns] == asked_of
    short, long = (len(Tokenizer.load(BUNDLED_DECODER).encode_rendered(each.model_text)) for each in (plain, talk))
    assert prompts_text(resolved, None).startswith(
        "2 prompts (OpenAI messages), each up to 4 messages in the model's chat template "
        f"({short} tokens (P50), {long} at most), 1 without the answers behind the last question, each sent"
    )


def test_a_template_without_system_messages_says_what_to_do_at_check(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GPT2))
    (folder / "chat_template.jinja").write_text(NO_SYSTEM)
    with pytest.raises(ScenarioError) as caught:
        check_context(_resolved(tmp_path, rows=(PLAIN, TALK)), folder)
    assert str(caught.value) == (
        f"{tmp_path / 's.yaml'}: workload.chat: {tmp_path / 'prompts.jsonl'}: prompt 'line-2': messages: the model's "
        "chat template refuses them: System role not supported; without the system message it takes them: leave it "
        "out, or put its text into the first question"
    )
    without = {"messages": TALK["messages"][1:]}
    assert prompts_of(_resolved(tmp_path, rows=(without,)), folder)[0].rendered == (
        "<user>spell: 42<assistant>forty-two<user>spell: 7"
    )


def test_the_messages_survive_the_way_to_a_load_process(tmp_path: Path) -> None:
    prompts = prompts_of(_resolved(tmp_path, rows=(PLAIN, TALK)), BUNDLED_DECODER)
    plan = replace(plan_of("http://127.0.0.1:1"), prompts=prompts)
    assert LoadPlan.from_json(plan.to_json()).prompts == prompts
