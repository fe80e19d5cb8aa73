"""A chat template renders as transformers renders it, sees no Python, and refuses in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.errors import ModelInvalid, RequestInvalid
from engines.models.chat_template import ChatTemplate
from engines.models.checkpoint.kind import template_text
from engines.models.tokenizer import Tokenizer
from tests.scenarios.test_bundled_decoder import MODEL

CHATML = (
    "{% for message in messages %}\n    {{- '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{{- '<|im_end|>\\n' }}\n{%- endfor %}\n{% if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{% generation %}{{ ' ' + message['content'] + eos_token }}"
    "{% endgeneration %}{% endif %}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
)
TOOLS = (
    "{%- set ns = namespace(n=0) -%}{% for message in messages %}{% set ns.n = ns.n + 1 %}"
    "{{ ns.n }}{{ message | tojson }}{% endfor %}{{ '<think>' if enable_thinking is not defined or enable_thinking }}"
)
USER: dict[str, Any] = {"role": "user", "content": "<b>Größe</b> "}
ASSISTANT = {"role": "assistant", "content": "12 \U0001f600"}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text, TOKENS, "model")


@pytest.mark.heavy
@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False}])
@pytest.mark.parametrize("text", [CHATML, LLAMA2, TOOLS], ids=["chatml", "llama2", "json and namespace"])
def test_published_forms_render_as_in_transformers(text: str, variables: dict[str, Any]) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [USER, ASSISTANT, USER]
    rendered, _ = render_jinja_template(
        [messages], chat_template=text, add_generation_prompt=True, **TOKENS, **variables
    )
    assert template(text).render(messages, variables) == rendered[0]


@pytest.mark.heavy
def test_the_bundled_decoder_reads_a_message_as_its_prompt() -> None:
    tokenizer = Tokenizer.load(MODEL)

    ids = tokenizer.encode_rendered(ChatTemplate.load(MODEL).render([{"role": "user", "content": "date: 1.2.1990"}]))

    assert ids == tokenizer.encode("date: 1.2.1990\n")
    assert tokenizer.encode_rendered("date") == tokenizer.encode("date")[1:]


def test_a_template_may_refuse_what_it_is_asked() -> None:
    with pytest.raises(RequestInvalid) as caught:
        template(LLAMA2).render([ASSISTANT])
    assert str(caught.value) == (
        "messages: the model's chat template refuses them: "
        "Conversation roles must alternate user/assistant/user/assistant/..."
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}{{ messages.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}{{ lipsum.__globals__['os'].system('true') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ messages[0].content + 1 }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
    ],
)
def test_a_template_reaches_nothing_and_its_failure_is_one_sentence(text: str) -> None:
    with pytest.raises(RequestInvalid, match=r"^messages: the model's chat template refuses them: ."):
        template(text).render([USER])


def test_a_text_that_is_no_template_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ModelInvalid) as caught:
        ChatTemplate.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: the chat template cannot be read (")


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelInvalid, match="the model has no chat template"):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize(
    "given", ["B", [{"name": "tool_use", "template": "A"}, {"name": "default", "template": "B"}]], ids=["text", "named"]
)
def test_the_file_wins_over_the_tokenizers_entry(given: object, tmp_path: Path) -> None:
    entries = {"chat_template": given, "bos_token": {"content": "<x>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(entries))
    assert template_text(tmp_path) == "B"
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}C")
    assert ChatTemplate.load(tmp_path).render([]) == "<x>C"
