"""Every answer shape that is accepted, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.load.protocol.interface import Answer, BadBody, Form, NoAnswer
from harness.load.protocol.registry import PROTOCOLS

WHOLE = Form(path="/", parameters={})
STREAM = Form(path="/", parameters={}, stream=True)


def _parse(body: object, prompts: int = 1, protocol: str = "djl", form: Form = WHOLE) -> Answer:
    return PROTOCOLS[protocol].read(form, json.dumps(body).encode(), (), prompts)


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"generated_text": "a"}, ("a",)),
        ([{"generated_text": "a"}], ("a",)),
        ([{"generated_text": "a"}, {"generated_text": "b"}], ("a", "b")),
        ({"outputs": ["a", "b"]}, ("a", "b")),
        ({"outputs": [{"generated_text": "a"}]}, ("a",)),
    ],
)
def test_djl_shapes(body: object, texts: tuple[str, ...]) -> None:
    assert _parse(body, len(texts)).texts == texts


def test_token_counts_are_summed_over_prompts() -> None:
    body = [{"generated_text": "a", "details": {"generated_tokens": 4, "input_tokens": 2}}] * 2
    assert _parse(body, 2).output_tokens == 8
    assert _parse(body, 2).input_tokens == 4
    assert _parse({"generated_text": "a"}).output_tokens is None


def test_nonfinite_scores_are_seen() -> None:
    assert _parse({"generated_text": "a", "details": {"nonfinite": True}}).is_nonfinite


@pytest.mark.parametrize("choice", [{"text": "a"}, {"message": {"content": "a"}}])
def test_openai_shapes(choice: object) -> None:
    body = {"choices": [choice], "usage": {"completion_tokens": 3, "prompt_tokens": 7}}
    answer = _parse(body, protocol="openai")
    assert (answer.texts, answer.output_tokens, answer.input_tokens) == (("a",), 3, 7)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": "a"}, "generated_text"),
        ([{"generated_text": "a"}, {"generated_text": "b"}], r"expected 1 answer\(s\) in the body, got 2"),
        ({"generated_text": None}, "generated_text"),
        ([3], "generated_text"),
    ],
)
def test_what_is_no_answer_is_refused(body: object, message: str) -> None:
    with pytest.raises(BadBody, match=message):
        _parse(body)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(BadBody, match="expected JSON"):
        PROTOCOLS["djl"].read(WHOLE, b"<html>", (), 1)


def _streamed(chunks: list[tuple[int, bytes]], protocol: str = "djl") -> Answer:
    body, marks = b"", []
    for at_ns, chunk in chunks:
        body += chunk
        marks.append((at_ns, len(body)))
    return PROTOCOLS[protocol].read(STREAM, body, marks, 1)


def test_token_times_are_those_of_the_read_that_completed_the_line() -> None:
    answer = _streamed(
        [
            (100, b'{"token": {"id": 1, "text": "a"}}\n{"tok'),
            (200, b'en": {"id": 2, "text": "b"}}\n'),
            (300, b'{"token": {"id": 3, "text": "c"}}\n{"token": {"id": 4, "text": "d"}}\n'),
            (400, b'{"generated_text": "abcd", "details": {"generated_tokens": 4}}\n'),
        ]
    )
    assert answer.token_ns == (100, 200, 300, 300)
    assert answer.texts == ("abcd",)
    assert answer.output_tokens == 4


def test_a_line_whose_newline_comes_later_is_complete_without_it() -> None:
    answer = _streamed([(100, b'{"token": {"id": 1}}'), (200, b'\n{"generated_text": "a"}')])
    assert answer.token_ns == (100,)


def test_openai_streams_are_joined() -> None:
    answer = _streamed(
        [
            (1, b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'),
            (2, b'data: {"choices": [{"delta": {"content": "he"}}]}\n\n'),
            (3, b'data: {"choices": [{"delta": {"content": "llo"}}]}\n\n'),
            (4, b'data: {"choices": [], "usage": {"completion_tokens": 2, "prompt_tokens": 1}}\n\ndata: [DONE]\n\n'),
        ],
        "openai",
    )
    assert (answer.texts, answer.token_ns, answer.output_tokens) == (("hello",), (2, 3), 2)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (b"", "empty body"),
        (b'{"token": {"id": 1}}\n', "the stream was cut after 1 line"),
        (b'{"token": {"id": 1}}\n{"error": "out of slots"}\n', "out of slots"),
    ],
)
def test_a_cut_or_failed_stream_is_refused(chunk: bytes, message: str) -> None:
    with pytest.raises(NoAnswer, match=message):
        _streamed([(1, chunk)])


def test_a_template_s_answer_is_found_by_its_path() -> None:
    body = {"result": [{"text": "ja"}]}
    assert _parse(body, protocol="template", form=replace(WHOLE, answer_path="result.0.text")).texts == ("ja",)
    with pytest.raises(BadBody, match=r"expected result.1.text in the answer"):
        _parse(body, protocol="template", form=replace(WHOLE, answer_path="result.1.text"))


def test_a_template_s_stream_is_joined_and_its_tokens_are_timed() -> None:
    lines = b'data: {"t": "a"}\n\ndata: {"t": "b"}\n\ndata: {"t": ""}\n\ndata: [DONE]\n\n'
    marks = ((10, 18), (20, 36), (30, len(lines)))
    answer = PROTOCOLS["template"].read(replace(STREAM, answer_path="t"), lines, marks, 1)
    assert answer.texts == ("ab",)
    assert answer.token_ns == (10, 20)


def test_sglang_s_own_stream_repeats_its_text_and_counts_it() -> None:
    pieces = [{"text": "one two three"[:end], "meta_info": {"prompt_tokens": 4, "completion_tokens": n}}
              for n, end in ((1, 3), (2, 7), (3, 13))]  # fmt: skip
    lines = b"".join(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces) + b"data: [DONE]\n\n"
    answer = PROTOCOLS["template"].read(replace(STREAM, answer_path="text"), lines, (), 1)
    assert (answer.texts, answer.input_tokens, answer.output_tokens) == (("one two three",), 4, 3)
    assert len(answer.token_ns) == 3
