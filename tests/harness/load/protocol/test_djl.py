"""DJL's answers and streams, in the forms of its containers and handlers."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from harness.load.protocol.interface import Answer, BadBody, Form, NoAnswer, ServerGaveUp
from harness.load.protocol.registry import PROTOCOLS


def _streamed(*lines: Any, prompts: int = 1) -> Answer:
    """The answer to lines that come at 10, 20, 30 ... ns."""
    chunks = [(one if isinstance(one, str) else json.dumps(one) + "\n").encode() for one in lines]
    marks = [(10 * n, length) for n, length in enumerate(itertools.accumulate(map(len, chunks)), 1)]
    return PROTOCOLS["djl"].read(Form(path="/", parameters={}, stream=True), b"".join(chunks), marks, prompts)


def _whole(body: Any, prompts: int = 1) -> Answer:
    return PROTOCOLS["djl"].read(Form(path="/", parameters={}), json.dumps(body).encode(), (), prompts)


def _token(text: str, **more: Any) -> dict[str, Any]:
    return {"token": {"id": 1, "text": text}, **more}


def test_the_last_line_may_be_a_token_and_the_answer() -> None:
    last = _token("b", generated_text="ab", details={"finish_reason": "eos_token", "generated_tokens": 2})
    answer = _streamed(_token("a", generated_text=None, details=None), last)
    assert (answer.texts, answer.token_ns, answer.output_tokens, answer.end_ns) == (("ab",), (10, 20), 2, 20)


def test_lines_are_counted_where_nothing_else_counts() -> None:
    assert _streamed(_token("a"), _token("b"), {"generated_text": "ab"}).output_tokens == 2


def test_server_sent_events_in_lists_are_the_same_stream() -> None:
    lines = [f"data:{json.dumps([one])}\n\n" for one in (_token("a"), _token("b", generated_text="ab"))]
    assert _streamed(*lines).token_ns == (10, 20)
    assert _streamed(*lines[:1], "data: [DONE]\n\n").texts == ("a",)


def test_a_last_line_without_the_text_ends_the_answer_by_its_reason() -> None:
    assert _streamed(_token("a"), _token("b", details={"finish_reason": "length"})).texts == ("ab",)


def test_the_hugging_face_handler_streams_outputs() -> None:
    answer = _streamed({"outputs": ["four"]}, {"outputs": [" five"]}, {"outputs": [""]})
    assert (answer.texts, answer.token_ns, answer.output_tokens) == (("four five",), (10, 20), 2)
    assert _streamed({"outputs": ["all of it"]}).token_ns == ()


@pytest.mark.parametrize("body", ["hello", ["hello"], {"outputs": "hello"}, [[{"generated_text": "hello"}]],
                                  [{"translation_text": "hello"}], {"summary_text": "hello"}])  # fmt: skip
def test_strings_lists_and_pipelines(body: Any) -> None:
    assert _whole(body).texts == ("hello",)


@pytest.mark.parametrize(
    "body",
    [
        {"error": "out of memory", "code": 424},
        {"code": 424, "type": "ModelError", "message": "no"},
        [{"generated_text": "", "error": "no"}],
        {"generated_text": "a", "details": {"finish_reason": "error"}},
        {"generated_text": "a", "details": {"finish reason": "error"}},
    ],
)
def test_errors_in_a_good_status_are_failures(body: Any) -> None:
    with pytest.raises(ServerGaveUp):
        _whole(body)


@pytest.mark.parametrize(
    ("lines", "output"),
    [
        ((_token("a"), _token("b")), "cut after 2 line"),
        ((_token("a"), "a fault in the stream"), "expected JSON"),
        ((_token("a"), {"error": "no", "code": 424}), "error"),
        ((_token("a"), _token("b", generated_text="ab", details={"finish_reason": "error"})), "finish_reason 'error'"),
        ((3,), "one JSON object per line"),
    ],
)
def test_a_stream_that_is_cut_or_fails(lines: Any, output: str) -> None:
    with pytest.raises(NoAnswer, match=output):
        _streamed(*lines)


def test_a_stream_holds_one_prompt() -> None:
    with pytest.raises(BadBody, match="a stream holds one"):
        _streamed({"generated_text": "a"}, prompts=2)


def test_null_details_and_errors_are_none() -> None:
    assert _whole({"generated_text": "a", "details": None, "error": None}).texts == ("a",)
