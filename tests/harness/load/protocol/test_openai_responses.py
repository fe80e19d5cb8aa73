"""OpenAI's Responses: what is sent of a conversation that the server keeps, and its answers as they are read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from engines.api import Dialect
from harness.errors import UsageError
from harness.load.protocol.interface import Answer, BadBody, Filtered, Form, NoAnswer, ServerGaveUp
from harness.load.protocol.registry import PROTOCOLS
from harness.records import Kept, Prompt
from tests.harness.load.protocol.prompts import TALK, prompts_of_texts

RULES = PROTOCOLS["openai-responses"]
WHOLE = Form(path="/v1/responses", model_name="m", parameters={})
STREAM = replace(WHOLE, stream=True)
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
USAGE = {
    "input_tokens": 9, "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip


def _sent(prompt: Prompt, form: Form = WHOLE, **parameters: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(RULES.body(form, (prompt,), parameters))
    return body


def _response(text: str = "a b", **fields: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    output = [{"type": "message", "role": "assistant", "content": content}]
    return {"id": "r1", "object": "response", "status": "completed", "output": output, "usage": USAGE, **fields}


def _read(body: object) -> Answer:
    return RULES.read(WHOLE, json.dumps(body).encode(), (), 1)


def _streamed(*events: dict[str, Any]) -> Answer:
    body, marks = b"", []
    for at_ns, event in enumerate(events, 1):
        body += f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        marks.append((at_ns * 10, len(body)))
    return RULES.read(STREAM, body, marks, 1)


def _delta(text: str, kind: str = "output_text") -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "output_index": 0, "delta": text}


def test_a_prompt_is_the_only_item_and_is_not_stored() -> None:
    (prompt,) = prompts_of_texts("say")
    assert _sent(prompt, max_new_tokens=8) == {
        "model": "m", "temperature": 0, "max_output_tokens": 8, "input": [{"role": "user", "content": "say"}],
        "store": False,
    }  # fmt: skip
    assert _sent(prompt, STREAM)["stream"] is True
    assert "stream_options" not in _sent(prompt, STREAM)
    with pytest.raises(UsageError, match="carries one prompt, inputs_per_request asks for 2; set it to 1"):
        RULES.body(WHOLE, prompts_of_texts("a", "b"), {})


def test_the_instructions_are_sent_with_every_turn_and_what_is_kept_is_not() -> None:
    first = _sent(replace(TALK, messages=TALK.messages[:2], kept=Kept()))
    assert (first["store"], "previous_response_id" in first) == (True, False)
    assert (first["instructions"], first["input"]) == ("spell", [{"role": "user", "content": "spell: 42"}])
    second = _sent(replace(TALK, kept=Kept(response_id="r1", messages=3)))
    assert (second["store"], second["previous_response_id"], second["instructions"]) == (True, "r1", "spell")
    assert second["input"] == [{"role": "user", "content": "spell: 1,306,346"}]
    assert [item["role"] for item in _sent(TALK)["input"]] == ["user", "assistant", "user"]


def test_a_system_message_behind_the_first_question_keeps_its_place() -> None:
    talk = replace(TALK, messages=(*TALK.messages[1:3], ("system", "now shout"), ("user", "again")))
    sent = _sent(talk)
    assert "instructions" not in sent
    assert [item["role"] for item in sent["input"]] == ["user", "assistant", "system", "user"]


def test_tool_calls_and_their_answers_are_items_by_themselves() -> None:
    messages = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    talk = replace(TALK, given=tuple(json.dumps(message) for message in messages))
    assert _sent(talk)["input"] == [
        {"role": "user", "content": "add"},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
    ]


def test_exactly_so_many_tokens_are_asked_for_in_the_words_of_the_server() -> None:
    (prompt,) = prompts_of_texts("say")
    form = replace(WHOLE, dialect=Dialect(exact_tokens="ignore_eos"))
    sent = _sent(prompt, form, max_new_tokens=8, min_new_tokens=8)
    assert (sent["max_output_tokens"], sent["ignore_eos"], "min_tokens" in sent) == (8, True, False)
    with pytest.raises(UsageError, match="no word for a minimum"):
        _sent(prompt, replace(WHOLE, dialect=Dialect(exact_tokens="none")), max_new_tokens=8, min_new_tokens=8)


def test_a_whole_answer_has_its_id_text_and_counts() -> None:
    answer = _read(_response())
    assert (answer.response_id, answer.texts) == ("r1", ("a b",))
    assert (answer.input_tokens, answer.cached_tokens, answer.output_tokens) == (9, 4, 5)
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "summary": []}
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}
    (part,) = _read(_response(output=[thought, call, refusal])).parts
    assert (part.text, part.reasoning, part.calls) == ("no", "hm", "f{}")


def test_an_answer_cut_at_its_length_is_one() -> None:
    assert _read(_response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})).texts == ("a b",)
    assert _read(_response(status="incomplete")).texts == ("a b",)


def test_the_deltas_of_a_stream_are_its_tokens_with_their_times() -> None:
    usage = {**USAGE, "output_tokens": 3}
    answer = _streamed(
        {"type": "response.created", "response": {"id": "r1", "status": "in_progress", "output": []}},
        _delta("hm", "reasoning_text"),
        _delta("a"),
        _delta(" b"),
        {"type": "response.output_text.done", "text": "a b"},
        {"type": "response.completed", "response": _response(usage=usage)},
    )
    assert (answer.response_id, answer.texts, answer.parts[0].reasoning) == ("r1", ("a b",), "")
    assert (answer.token_ns, answer.first_output_ns, answer.end_ns) == ((20, 30, 40), 30, 60)
    assert (answer.input_tokens, answer.output_tokens, answer.cached_tokens) == (9, 3, 4)


def test_a_stream_whose_last_event_has_no_output_is_its_deltas() -> None:
    answer = _streamed(_delta("a"), {"type": "response.incomplete", "response": _response(output=[])})
    assert (answer.texts, answer.response_id) == (("a",), "r1")


@pytest.mark.parametrize(
    ("error", "why", "body"),
    [
        (BadBody, 'expected an "id"', _response(id=None)),
        (BadBody, r'expected \{"id", "output"', {"choices": []}),
        (BadBody, 'completed, got status "queued"', _response(status="queued")),
        (ServerGaveUp, "no memory", _response(status="failed", error={"code": "server_error", "message": "no memory"})),
        (ServerGaveUp, "cancelled", _response(status="cancelled")),
        (Filtered, "content_filter", _response(status="incomplete", incomplete_details={"reason": "content_filter"})),
        (ServerGaveUp, "not found", {"error": {"message": "not found", "code": 404}}),
    ],
)
def test_what_is_no_answer_is_refused(error: type[NoAnswer], why: str, body: dict[str, Any]) -> None:
    with pytest.raises(error, match=why):
        _read(body)


@pytest.mark.parametrize(
    ("error", "why", "events"),
    [
        (BadBody, r"cut after 1 event\(s\): no response.completed", [_delta("a")]),
        (ServerGaveUp, "out of slots", [_delta("a"), {"type": "error", "message": "out of slots"}]),
        (
            ServerGaveUp,
            "broken",
            [{"type": "response.failed", "response": {"id": "r", "error": {"message": "broken"}}}],
        ),
    ],
)
def test_a_stream_that_failed_is_refused(error: type[NoAnswer], why: str, events: list[dict[str, Any]]) -> None:
    with pytest.raises(error, match=why):
        _streamed(*events)
