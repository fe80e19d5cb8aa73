"""OpenAI's request bodies: every field is honoured, without effect, or refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.api import GenerateParams
from engines.errors import RequestInvalid
from engines.server.openai_body import DEFAULT_TOKENS, OpenAiBody, parse_chat, parse_completion

SAMPLED = GenerateParams(max_new_tokens=DEFAULT_TOKENS, do_sample=True, top_k=0)
USER = {"role": "user", "content": "hi"}


def completion(defaults: dict[str, Any] | None = None, **fields: Any) -> OpenAiBody:
    return parse_completion(json.dumps({"prompt": "a b", **fields}).encode(), defaults or {})


def chat(context: int | None = 100, **fields: Any) -> OpenAiBody:
    return parse_chat(json.dumps({"messages": [USER], **fields}).encode(), {}, context)


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({}, {}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.5, "top_p": 0.9, "seed": 7}, {"temperature": 0.5, "top_p": 0.9, "seed": 7}),
        ({"max_tokens": 5, "min_tokens": 3}, {"max_new_tokens": 5, "min_new_tokens": 3}),
        ({"max_tokens": 5, "ignore_eos": True}, {"max_new_tokens": 5, "min_new_tokens": 5}),
        ({"top_k": 4, "repetition_penalty": 1.2}, {"top_k": 4, "repetition_penalty": 1.2}),
        ({"top_k": -1, "no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
        ({"logprobs": 0}, {"return_logprobs": True}),
        ({"logprobs": 1, "temperature": 0}, {"return_logprobs": True, "do_sample": False}),
        ({"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "stop": None, "user": "me"}, {}),
        ({"echo": False, "best_of": 1, "suffix": None, "tools": [], "response_format": {"type": "text"}}, {}),
    ],
)
def test_fields_are_generation_parameters(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    expected = {name: getattr(SAMPLED, name) for name in SAMPLED.__slots__} | changed
    assert completion(**fields).body.params == GenerateParams(**expected)


def test_what_a_request_leaves_out_is_the_models_but_for_beams_and_lengths() -> None:
    defaults = {"temperature": 0.6, "top_k": 20, "num_beams": 4, "max_new_tokens": 99, "min_new_tokens": 9}
    params = completion(defaults).body.params
    assert (params.temperature, params.top_k, params.num_beams) == (0.6, 20, 1)
    assert (params.max_new_tokens, params.min_new_tokens) == (DEFAULT_TOKENS, 0)
    assert completion(defaults, temperature=0.2).body.params.temperature == 0.2


@pytest.mark.parametrize(
    ("prompt", "inputs", "is_list"),
    [
        ("a", ("a",), False),
        ([5, 6], ((5, 6),), False),
        (["a", "b"], ("a", "b"), True),
        ([[5], [6, 7]], ((5,), (6, 7)), True),
        ("\n", ("\n",), False),
    ],
)
def test_prompts_are_texts_or_token_ids(prompt: object, inputs: object, is_list: bool) -> None:
    body = completion(prompt=prompt).body
    assert (body.inputs, body.is_list) == (inputs, is_list)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": None}, "prompt: missing; expected a string, a list of strings, or token ids"),
        ({"prompt": []}, "prompt: the list is empty; expected at least one prompt"),
        ({"prompt": ""}, "prompt: the text is empty"),
        ({"prompt": {"a": 1}}, "prompt: expected a string, got an object"),
        ({"prompt": ["a", 1]}, "prompt[1]: expected a string, got the number 1"),
        ({"prompt": [[1], [-1]]}, "prompt[1]: expected token ids, which are whole numbers >= 0"),
        ({"prompt": "\ud800"}, "prompt: the text holds a lone surrogate escape; send whole characters"),
        ({"n": 2}, "n: this server does not do that; leave it out, or send 1 or null"),
        ({"presence_penalty": 0.5}, "presence_penalty: this server does not do that; leave it out, or send 0 or null"),
        ({"logit_bias": {"5": 1}}, "logit_bias: this server does not do that; leave it out, or send {} or null"),
        ({"echo": True}, "echo: this server does not do that; leave it out, or send false or null"),
        ({"max_tokens": -1}, "max_tokens: -1 is out of range; expected a whole number >= 1"),
        ({"max_tokens": 0}, "max_tokens: 0 is out of range"),
        ({"max_tokens": 1.5}, "max_tokens: expected a whole number, got the number 1.5"),
        ({"temperature": -0.1}, "temperature: -0.1 is out of range"),
        ({"temperature": False}, "temperature: expected a number, got a boolean"),
        ({"top_p": 0}, "top_p: 0 is out of range"),
        ({"min_tokens": 20}, "min_tokens: 20 is above max_tokens 16"),
        ({"logprobs": 5}, "logprobs: this server knows the chosen token's log-probability, not its rivals'"),
        ({"logprobs": 1}, "logprobs: this server knows the chosen token's log-probability, not its rivals'"),
        ({"logprobs": "x"}, "logprobs: expected a whole number >= 0, got a string"),
        ({"stop": ["a", ""]}, "stop: expected strings that are not empty"),
        ({"stop": 5}, "stop: expected a string or a list of at most 64, got the number 5"),
        ({"stream": 1}, "stream: expected true or false, got the number 1"),
        ({"stream": True, "prompt": ["a", "b"]}, "stream: expected one prompt, got 2"),
        ({"stream_options": {"include_usage": True}}, "stream_options: expected stream true beside it"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options: unknown field 'usage'"),
        ({"model": 5}, "model: expected a string, got the number 5"),
        ({"temprature": 1}, "temprature: unknown field; did you mean 'temperature'?"),
        ({"messages": [USER]}, "messages: unknown field"),
        ({"num_beams": 4}, "num_beams: this server does not do that; leave it out, or send 1 or null"),
    ],
)
def test_a_completion_that_cannot_be_honoured_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        completion(**fields)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_body_that_is_no_object_is_one_sentence(data: bytes) -> None:
    with pytest.raises(RequestInvalid, match=r"^the body is .*; expected .*prompt"):
        parse_completion(data, {})


def test_a_chat_fills_the_context_unless_it_names_a_limit() -> None:
    assert chat().body.asked.context == 100
    assert chat(max_completion_tokens=7).body.asked.context is None
    assert chat(max_completion_tokens=7, max_tokens=9).body.params.max_new_tokens == 7
    assert chat(context=None).body.asked.context == 2048


def test_parts_of_text_are_joined_and_a_call_needs_no_content() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert chat(messages=[{"role": "user", "content": parts}, call]).messages == (
        {"role": "user", "content": "a\nb"},
        {**call, "content": ""},
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"messages": None}, 'messages: expected a list of {"role", "content"}, got null'),
        ({"messages": []}, 'messages: expected a list of {"role", "content"}, got an empty list'),
        ({"messages": ["hi"]}, 'messages[0]: expected {"role", "content"}, got a string'),
        ({"messages": [{"content": "x"}]}, "messages[0].role: expected a string, got null"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: expected a string, got null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]: expected a part of type 'text', got 'image_url'",
        ),
        ({"tools": [{"type": "function"}]}, "tools: this server does not do that"),
        ({"response_format": {"type": "json_object"}}, "response_format: this server does not do that"),
        ({"top_logprobs": 1}, "top_logprobs: expected logprobs true beside it"),
        ({"logprobs": True, "top_logprobs": 2}, "logprobs: this server knows the chosen token's"),
        ({"ignore_eos": True}, "ignore_eos: expected max_tokens beside it"),
        ({"prompt": "x"}, "prompt: unknown field"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs: expected an object, got a list"),
    ],
)
def test_a_chat_that_cannot_be_honoured_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        chat(**fields)
    assert str(caught.value).startswith(sentence)
