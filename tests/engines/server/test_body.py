"""What a request body may say, and the sentence it gets when it says something else."""

from __future__ import annotations

import json

import pytest

from engines.api import GenerateParams
from engines.errors import RequestInvalid
from engines.server.body import PARAMETERS, WHOLE_LENGTHS, WITHOUT_EFFECT, parse_body

BAD: list[tuple[object, str]] = [
    ([], "expected an object with the key 'inputs'"),
    ("text", "the body is a string"),
    (None, "the body is null"),
    ({}, "the key 'inputs' is missing"),
    ({"input": "x"}, "unknown key 'input'; did you mean 'inputs'?"),
    ({"inputs": []}, "inputs: the list is empty"),
    ({"inputs": ""}, "inputs: the text is empty"),
    ({"inputs": ["a", "  "]}, r"inputs\[1\]: the text is empty"),
    ({"inputs": 3}, "inputs: expected a string, got the number 3"),
    ({"inputs": ["a", None]}, r"inputs\[1\]: expected a string, got null"),
    ({"inputs": ["a", ["b"]]}, r"inputs\[1\]: expected a string, got a list"),
    ({"inputs": "\ud800"}, "lone surrogate"),
    ({"inputs": "a", "parameters": []}, "parameters: expected an object, got a list"),
    ({"inputs": "a", "stream": "yes"}, "stream: expected true or false, got a string"),
    ({"inputs": ["a", "b"], "stream": True}, "stream: expected one input, got 2"),
    ({"inputs": "a", "parameters": {"max_new_token": 3}}, "did you mean 'max_new_tokens'"),
    ({"inputs": "a", "parameters": {"max_tokens": 3}}, "unknown parameter 'max_tokens'; did you mean 'max_new_tokens'"),
    ({"inputs": "a", "parameters": {"max_length": 1}}, "max_length: expected a whole number >= 2, got the number 1"),
    ({"inputs": "a", "parameters": {"max_length": True}}, "max_length: expected a whole number >= 2, got a boolean"),
    ({"inputs": "a", "parameters": {"min_length": "5"}}, "min_length: expected a whole number >= 0, got a string"),
    ({"inputs": "a", "parameters": {"early_stopping": "always"}}, 'expected true, false or "never", got a string'),
    ({"inputs": "a", "parameters": {"num_return_sequences": 2}}, "does not do that; leave it out, or send 1 or null"),
    ({"inputs": "a", "parameters": {"num_return_sequences": True}}, "num_return_sequences: this server does not"),
    ({"inputs": "a", "parameters": {"return_full_text": True}}, "return_full_text: .*, or send false or null"),
    ({"inputs": "a", "parameters": {"stop_sequences": ["x"]}}, r"stop_sequences: .*, or send \[\] or null"),
    ({"inputs": "a", "parameters": {"truncate": 100}}, "truncate: this server does not do that"),
    ({"inputs": "a", "options": {"wait": 1}}, "unknown option 'wait'"),
    ({"inputs": "a", "options": []}, "options: expected an object, got a list"),
    ({"inputs": "a", "parameters": {"beam_width": 3}}, "did you mean 'num_beams'"),
    ({"inputs": "a", "parameters": {"zzz": 3}}, "unknown parameter 'zzz'; known: max_new_tokens"),
    ({"inputs": "a", "parameters": {"max_new_tokens": 0}}, "0 is out of range; expected a whole number >= 1"),
    ({"inputs": "a", "parameters": {"max_new_tokens": -1}}, "out of range"),
    ({"inputs": "a", "parameters": {"max_new_tokens": 2.0}}, "expected a whole number, got the number 2.0"),
    ({"inputs": "a", "parameters": {"max_new_tokens": "2"}}, "expected a whole number, got a string"),
    ({"inputs": "a", "parameters": {"max_new_tokens": True}}, "expected a whole number, got a boolean"),
    ({"inputs": "a", "parameters": {"max_new_tokens": []}}, "expected a whole number, got a list"),
    ({"inputs": "a", "parameters": {"min_new_tokens": 9, "max_new_tokens": 8}}, "9 is above max_new_tokens 8"),
    ({"inputs": "a", "parameters": {"do_sample": 1}}, "expected true or false, got the number 1"),
    ({"inputs": "a", "parameters": {"details": 1}}, "parameters.details: expected true or false"),
    ({"inputs": "a", "parameters": {"add_special_tokens": 0}}, "parameters.add_special_tokens: expected true or false"),
    ({"inputs": "a", "parameters": {"temperature": 0}}, "expected a number > 0"),
    ({"inputs": "a", "parameters": {"temperature": float("nan")}}, "expected a number"),
    ({"inputs": "a", "parameters": {"length_penalty": float("inf")}}, "expected a number"),
    ({"inputs": "a", "parameters": {"top_p": 1.5}}, "expected a number > 0 and <= 1"),
    ({"inputs": "a", "parameters": {"seed": -1}}, "out of range"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_bad_input_gets_a_reason(body: object, message: str) -> None:
    with pytest.raises(RequestInvalid, match=message):
        parse_body(json.dumps(body).encode())


@pytest.mark.parametrize("data", [b"", b"not json", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(RequestInvalid, match="not JSON"):
        parse_body(data)


def test_defaults_are_the_interface_s() -> None:
    body = parse_body(b'{"inputs": "a"}')
    assert (body.inputs, body.is_list, body.wants_details, body.wants_stream) == (("a",), False, False, False)
    assert body.params == GenerateParams()


def test_every_parameter_arrives() -> None:
    parameters = {
        "max_new_tokens": 7, "min_new_tokens": 2, "num_beams": 3, "length_penalty": -1, "do_sample": True,
        "early_stopping": "never",
        "temperature": 0.5, "top_k": 0, "top_p": 0.9, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2,
        "seed": 5, "return_logprobs": True,
    }  # fmt: skip
    body = parse_body(json.dumps({"inputs": ["a", "b"], "parameters": {**parameters, "details": True}}).encode())
    assert body.params == GenerateParams(**parameters)  # type: ignore[arg-type]
    assert body.is_list
    assert body.wants_details


def test_null_means_the_default() -> None:
    assert parse_body(b'{"inputs": "a", "parameters": {"seed": null}}').params == GenerateParams()
    assert parse_body(b'{"inputs": "a", "parameters": null, "options": null}').params == GenerateParams()
    every = {name: None for name in (*PARAMETERS, *WHOLE_LENGTHS, *WITHOUT_EFFECT)}
    assert parse_body(json.dumps({"inputs": "a", "parameters": every}).encode()).params == GenerateParams()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"max_length": 20, "min_length": 5}, GenerateParams(max_new_tokens=19, min_new_tokens=4)),
        ({"max_length": 20, "max_new_tokens": 7}, GenerateParams(max_new_tokens=7)),
        ({"min_length": 0}, GenerateParams()),
        ({"num_beams": 4, "early_stopping": True}, GenerateParams(num_beams=4, early_stopping=True)),
        (
            {"max_new_tokens": 16, "num_return_sequences": 1, "return_full_text": False},
            GenerateParams(max_new_tokens=16),
        ),
        ({"best_of": 1, "stop": [], "watermark": False, "typical_p": 1.0, "truncate": None}, GenerateParams()),
    ],
)
def test_names_of_hugging_face_tgi_and_djl_are_taken(parameters: dict[str, object], expected: GenerateParams) -> None:
    body = {"inputs": "a", "parameters": parameters, "options": {"use_cache": True, "wait_for_model": True}}
    assert parse_body(json.dumps(body).encode()).params == expected


def test_a_chat_template_s_text_is_read_without_special_tokens() -> None:
    assert parse_body(b'{"inputs": "a", "parameters": {"add_special_tokens": false}}').asked.is_rendered
    assert not parse_body(b'{"inputs": "a", "parameters": {"add_special_tokens": true}}').asked.is_rendered
