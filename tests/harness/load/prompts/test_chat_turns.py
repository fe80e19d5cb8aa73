"""Conversations of a prompts file: the turns that a chat sends of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ScenarioError
from harness.load.plan import LoadPlan
from harness.load.prompts.prompts_file import read_prompts, read_prompts_file
from harness.load.protocol.request_form import form_of
from tests.harness.load.plans import plan_of

SYSTEM = {"role": "system", "content": "Be brief"}
USER = {"role": "user", "content": "Hi?"}
ANSWER = {"role": "assistant", "content": "Hello"}
AGAIN = {"role": "user", "content": "And you?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "2"}


def _file(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "turns", "name"),
    [
        (
            {"messages": [SYSTEM, USER, ANSWER, AGAIN]},
            (("system", "Be brief"), ("user", "Hi?"), ("assistant", "Hello"), ("user", "And you?")),
            ("OpenAI messages",),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi?"},
                    {"from": "gpt", "value": "Hello"},
                    {"from": "human", "value": "And you?"},
                ]
            },
            (("user", "Hi?"), ("assistant", "Hello"), ("user", "And you?")),
            ("ShareGPT's conversations",),
        ),
        (
            {"system_prompt": "Be brief", "question": "Hi?"},
            (("system", "Be brief"), ("user", "Hi?")),
            ("OpenOrca's questions",),
        ),
        ({"system_prompt": "", "question": "Hi?"}, (("user", "Hi?"),), ("OpenOrca's questions",)),
        ({"turns": ["Hi?", "And you?"]}, (("user", "Hi?"),), ("MT-bench's first turns",)),
        ({"prompt": "Hi?"}, (("user", "Hi?"),), ()),
    ],
)
def test_a_chat_keeps_the_turns_of_a_conversation(
    tmp_path: Path, row: dict[str, Any], turns: tuple[tuple[str, str], ...], name: tuple[str, ...]
) -> None:
    read = read_prompts_file(_file(tmp_path, row), is_chat=True)
    assert (read.prompts[0].turns, read.formats, read.cut) == (turns, name, 0)
    assert read.prompts[0].text == "\n\n".join(text for _, text in turns)


def test_tool_calls_and_their_answers_are_sent_as_the_file_has_them(tmp_path: Path) -> None:
    path = _file(
        tmp_path, {"messages": [USER, CALL, TOOL, ANSWER]}, {"messages": [USER, ANSWER, {**AGAIN, "name": "x"}]}
    )
    read = read_prompts_file(path, is_chat=True)
    first, plain = read.prompts
    assert first.sent_messages == [USER, CALL, TOOL], "a tool's answer asks"
    assert first.turns == (("user", "Hi?"), ("assistant", ""), ("tool", "2"))
    assert first.text == "Hi?\n\n2"
    assert (read.cut, plain.given) == (1, ())
    plan = plan_of("http://h", prompts=read.prompts, protocol="openai-chat")
    assert LoadPlan.from_json(plan.to_json()).prompts == read.prompts
    assert json.loads(form_of(plan).body((first,)))["messages"] == [USER, CALL, TOOL]


def test_answers_behind_the_last_question_are_left_out_and_counted(tmp_path: Path) -> None:
    path = _file(tmp_path, {"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER, AGAIN, ANSWER]}, {"prompt": "x"})
    read = read_prompts_file(path, is_chat=True)
    assert [len(prompt.turns) for prompt in read.prompts] == [1, 3, 1]
    assert read.cut == 2
    assert [prompt.text for prompt in read_prompts(path)] == ["Hi?", "Hi?", "x"]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            [USER, {"role": "tool", "content": "3"}],
            "messages.1.role: expected system, user, assistant, or tool with a tool_call_id, got 'tool'",
        ),
        ([{"content": "3"}], "messages.0.role: expected system, user, assistant, or tool with a"),
        (
            [USER, {"role": "assistant", "tool_calls": 3}, AGAIN],
            "messages.1.tool_calls: expected a list of calls, got 3",
        ),
        ([USER, {**CALL, "tool_calls": [{"function": {"name": "f"}}]}, AGAIN], "messages.1.tool_calls.0: expected {"),
        ([{"role": "tool", "tool_call_id": "c1", "content": "3"}], "messages: expected a message of the user"),
        ([SYSTEM, ANSWER], "messages: expected a message of the user, which is what asks; got none"),
        ([], "messages: expected a list of messages, got []"),
        ("hi", "messages: expected a list of messages, got 'hi'"),
        (["hi"], "messages.0: expected an object with 'role' and 'content', got 'hi'"),
        ([{"role": "user", "content": [{"text": "Hi"}]}], "messages.0.content: expected text, got [{"),
        ([ANSWER, {"role": "user", "content": " "}], "messages.1.content: the last question must be a non-empty"),
        ([USER, {"role": "user", "content": "\ud800"}], "got half a character"),
    ],
)
def test_a_conversation_that_cannot_be_sent_is_one_sentence(tmp_path: Path, messages: Any, message: str) -> None:
    path = _file(tmp_path, {"prompt": "fine"}, {"messages": messages})
    with pytest.raises(ScenarioError) as caught:
        read_prompts(path, is_chat=True)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
