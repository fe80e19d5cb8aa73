"""OpenAI's streams and answers: token times and counts of every kind of token, ends, failures, and odd framing."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import pytest

from engines.api import Dialect
from harness.errors import UsageError
from harness.load.protocol.interface import Answer, BadBody, Filtered, Form, NoAnswer, ServerGaveUp
from harness.load.protocol.registry import PROTOCOLS
from tests.harness.load.protocol.prompts import prompts_of_texts

DONE = "data: [DONE]\n\n"
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}


def _delta(finish: Any = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def _usage(generated: int, asked: int = 7, **more: Any) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": asked, "completion_tokens": generated, **more}}


END = {"choices": [], **_usage(2)}


def _bytes(frames: tuple[Any, ...]) -> list[bytes]:
    return [(one if isinstance(one, str) else f"data: {json.dumps(one)}\n\n").encode() for one in frames]


def _streamed(*frames: Any, prompts: int = 1) -> Answer:
    """The answer to frames that come at 10, 20, 30 ... ns."""
    chunks = _bytes(frames)
    lengths = list(itertools.accumulate(len(chunk) for chunk in chunks))
    marks = [(10 * number, length) for number, length in enumerate(lengths, 1)]
    form = Form(path="/v1/chat/completions", parameters={}, stream=True)
    return PROTOCOLS["openai"].read(form, b"".join(chunks), marks, prompts)


def _whole(body: Any, prompts: int = 1) -> Answer:
    return PROTOCOLS["openai"].read(Form(path="/", parameters={}), json.dumps(body).encode(), (), prompts)


def _asked(dialect: Dialect, **parameters: object) -> dict[str, Any]:
    """The fields of a request's body."""
    form = Form(path="/v1/completions", parameters={}, dialect=dialect)
    fields: dict[str, Any] = json.loads(PROTOCOLS["openai"].body(form, prompts_of_texts("a"), parameters))
    return fields


def test_token_ids_are_kept_where_they_are_ids() -> None:
    choice = {"index": 0, "text": "ab", "token_ids": [5, 6, 2]}
    assert _whole({"choices": [choice]}).parts[0].token_ids == (5, 6, 2)
    for odd in (None, "5", [5, "6"], [-1], [True]):
        assert _whole({"choices": [{**choice, "token_ids": odd}]}).parts[0].token_ids is None
    djl = b'{"generated_text": "ab", "details": {"tokens": [5, 6, 2], "generated_tokens": 3}}'
    assert PROTOCOLS["djl"].read(Form(path="/", parameters={}), djl, (), 1).parts[0].token_ids == (5, 6, 2)


def test_exactly_so_many_tokens_are_asked_for_in_the_dialect_of_the_server() -> None:
    masks = Dialect(exact_tokens="ignore_eos")
    asked = _asked(masks, max_new_tokens=8, min_new_tokens=8)
    assert (asked["max_tokens"], asked["ignore_eos"], "min_tokens" in asked) == (8, True, False)
    assert not {"ignore_eos", "min_tokens"} & set(_asked(masks, max_new_tokens=8, min_new_tokens=0))
    assert _asked(Dialect(), max_new_tokens=8, min_new_tokens=8)["min_tokens"] == 8
    with pytest.raises(UsageError, match="min_new_tokens 4 of max_new_tokens 8"):
        _asked(masks, max_new_tokens=8, min_new_tokens=4)


def test_a_server_that_takes_a_generation_config_gets_hugging_faces_words_in_it() -> None:
    asked = _asked(
        Dialect(takes_generation_config=True), max_new_tokens=8, min_new_tokens=8, do_sample=True, temperature=0.5,
        seed=3, top_k=5, details=True, num_beams=1, no_repeat_ngram_size=None,
    )  # fmt: skip
    config = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": True, "top_k": 5}
    assert json.loads(asked.pop("generation_config")) == config
    assert asked == {"model": "", "prompt": "a", "temperature": 0.5, "seed": 3}
    goes_on = Dialect(exact_tokens="no_end", takes_generation_config=True, end_ids=(1, 7))
    exact = _asked(goes_on, max_new_tokens=8, min_new_tokens=8, do_sample=False, top_k=50)["generation_config"]
    assert json.loads(exact) == {"max_new_tokens": 8, "eos_token_id": -1}
    ends = _asked(goes_on, max_new_tokens=8)["generation_config"]
    assert json.loads(ends) == {"max_new_tokens": 8, "eos_token_id": [1, 7]}
    with pytest.raises(UsageError, match="top_k: this server takes none in continuous batching"):
        _asked(goes_on, max_new_tokens=8, top_k=5)
    with pytest.raises(UsageError, match="min_new_tokens 4 of max_new_tokens 8"):
        _asked(goes_on, max_new_tokens=8, min_new_tokens=4)


def test_fields_of_a_dialect_are_in_every_body_and_the_user_s_own_win() -> None:
    dialect = Dialect(fields={"cache_prompt": False, "temperature": 1})
    assert _asked(dialect)["cache_prompt"] is False
    assert _asked(dialect, cache_prompt=True, temperature=0) == {
        "model": "", "temperature": 0, "cache_prompt": True, "prompt": "a",
    }  # fmt: skip


def test_usage_in_every_chunk_is_a_total_so_far_and_is_not_summed() -> None:
    words = [{**_delta(content=f"w{n} "), **_usage(n)} for n in range(1, 9)]
    answer = _streamed(ROLE, *words, {**_delta("stop"), **_usage(8)}, DONE)
    assert (answer.output_tokens, answer.input_tokens) == (8, 7)
    assert answer.token_ns == (20, 30, 40, 50, 60, 70, 80, 90)


def test_a_last_chunk_that_counts_nothing_takes_nothing_away() -> None:
    answer = _streamed({**_delta(content="a b"), **_usage(2)}, _delta("stop"), {"choices": [], **_usage(0, 0)}, DONE)
    assert (answer.output_tokens, answer.input_tokens) == (2, 7)


def test_growing_usage_says_how_many_tokens_each_chunk_holds_and_the_end_token_is_none_of_them() -> None:
    words = [{**_delta(content="one two "), **_usage(n)} for n in (2, 4, 6)]
    answer = _streamed(*words, {**_delta("stop"), **_usage(7)}, DONE)
    assert answer.token_ns == (10, 10, 20, 20, 30, 30)
    assert answer.output_tokens == 7


def test_a_count_beyond_the_text_of_a_chunk_makes_no_tokens() -> None:
    answer = _streamed({**_delta(content="ab"), **_usage(2**30)}, _delta("stop"), DONE)
    assert answer.token_ns == (10, 10)


def test_reasoning_is_tokens_and_the_first_output_comes_after_it() -> None:
    thoughts = [_delta(content=None, reasoning_content=f"t{n} ") for n in range(3)]
    words = [_delta(content=f"w{n} ") for n in range(2)]
    answer = _streamed(ROLE, *thoughts, *words, _delta("stop"), {"choices": [], **_usage(5)}, DONE)
    assert answer.token_ns == (20, 30, 40, 50, 60)
    assert answer.first_output_ns == 50
    assert answer.texts == ("w0 w1 ",)
    assert answer.parts[0].generated == "t0 t1 t2 w0 w1 "


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"content": [{"type": "reasoning", "text": "hm"}]},
    ],
)
def test_each_way_to_send_reasoning_is_read_once(thought: dict[str, Any]) -> None:
    answer = _streamed(_delta(**thought), _delta("length"), DONE)
    assert (answer.parts[0].reasoning, answer.texts) == ("hm", ("",))
    assert answer.token_ns == (10,)
    assert answer.first_output_ns is None
    assert not answer.parts[0].is_blank


def test_tool_calls_and_refusals_are_tokens() -> None:
    call = {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "look", "arguments": ""}}]}
    more = {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}
    answer = _streamed(ROLE, _delta(**call), _delta(**more), _delta("tool_calls"), DONE)
    assert answer.token_ns == (20, 30)
    assert answer.first_output_ns == 20
    assert answer.parts[0].calls == 'look{"a":1}'
    assert _streamed(_delta(refusal="no"), _delta("stop"), DONE).texts == ("no",)
    whole = _whole({"choices": [{"message": {"content": None, "tool_calls": call["tool_calls"]}}]})
    assert (whole.texts, whole.parts[0].is_blank) == (("",), False)


def test_reasoning_that_is_counted_and_never_sent_is_hidden() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 500}}
    words = [_delta(content=f"w{n} ") for n in range(10)]
    answer = _streamed(*words, _delta("stop"), {"choices": [], **_usage(510, **details)}, DONE)
    assert (answer.output_tokens, answer.hidden_tokens, len(answer.token_ns)) == (510, 500, 10)
    shown = _streamed(_delta(reasoning="thinking"), _delta("stop"), {"choices": [], **_usage(9, **details)}, DONE)
    assert shown.hidden_tokens == 0


def test_an_answer_ends_with_its_last_frame_and_what_follows_done_is_none() -> None:
    assert _streamed(_delta(content="a"), _delta("stop"), END, DONE, ": bye\n\n").end_ns == 40
    assert _streamed(_delta(content="a"), _delta("stop")).end_ns == 20
    assert _streamed(_delta(content="a"), _delta("stop"), DONE, _delta(content="b")).texts == ("a",)


@pytest.mark.parametrize(
    ("frames", "kind", "output"),
    [
        ((_delta(content="a"),), BadBody, r"cut after 1 frame"),
        ((ROLE,), BadBody, "no finish_reason and no"),
        ((_delta(content="a"), _delta("error")), ServerGaveUp, "finish_reason 'error'"),
        ((_delta(content="a"), _delta("abort"), DONE), ServerGaveUp, "abort"),
        ((_delta({"type": "abort"}), DONE), ServerGaveUp, "abort"),
        ((_delta(content="a"), _delta("content_filter"), DONE), Filtered, "content_filter"),
        ((_delta("content-filter"), DONE), Filtered, "content-filter"),
        ((_delta(content="a"), {"error": {"message": "out of memory"}}, DONE), ServerGaveUp, "out of memory"),
        (({"object": "error", "message": "no", "code": 400}, DONE), ServerGaveUp, "no"),
        (({"detail": "Internal Server Error"},), ServerGaveUp, "Internal Server Error"),
        (("event: error\ndata: overloaded\n\n",), ServerGaveUp, "overloaded"),
        ((_delta(content=3), _delta("stop"), DONE), BadBody, "expected text"),
        (({"choices": 3}, DONE), BadBody, "list of objects"),
        (({"choices": [None]}, DONE), BadBody, "list of objects"),
        (({"usage": {}}, DONE), BadBody, "choices"),
        (([1], DONE), BadBody, "expected an object"),
        ((_delta(content="a"), "data: {bro\n\n"), BadBody, "expected JSON"),
    ],
)
def test_what_is_no_answer_is_a_failure_of_its_kind(frames: Any, kind: type[NoAnswer], output: str) -> None:
    with pytest.raises(kind, match=output):
        _streamed(*frames)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"choices": None}, BadBody),
        ({"choices": [{"message": None}]}, BadBody),
        ({"choices": [], "error": {"code": 500}}, ServerGaveUp),
        ({"object": "error", "message": "no"}, ServerGaveUp),
        ({"choices": [{"message": {"content": "a"}, "finish_reason": "error"}]}, ServerGaveUp),
        ({"choices": [{"text": "a", "finish_reason": "content_filter"}]}, Filtered),
        ("a string", BadBody),
        (None, BadBody),
    ],
)
def test_a_whole_body_that_is_no_answer(body: Any, kind: type[NoAnswer]) -> None:
    with pytest.raises(kind):
        _whole(body)


def test_null_is_no_error_and_no_text() -> None:
    answer = _whole({"error": None, "choices": [{"message": {"content": None}, "finish_reason": "stop"}]})
    assert (answer.texts, answer.parts[0].is_blank) == (("",), True)
    frames = ({**ROLE, "error": None}, {**_delta(content="a"), "usage": None}, _delta("stop"), END, DONE)
    assert _streamed(*frames).output_tokens == 2


def test_an_answer_of_nothing_is_blank_whatever_ends_it() -> None:
    assert _streamed(ROLE, _delta("stop"), {"choices": [], **_usage(0)}, DONE).parts[0].is_blank
    assert _streamed(DONE).parts[0].is_blank
    for finish in ("length", "stop"):
        assert not _streamed(_delta(finish), {"choices": [], **_usage(9)}, DONE).parts[0].is_blank


def test_event_id_and_retry_lines_comments_and_a_byte_order_mark_are_skipped() -> None:
    word = _bytes((_delta(content="a"),))[0].decode()
    frames = ("\ufeffretry: 3000\n\n", ": ping\n\n", f"event: message\nid: 1\n{word}", _delta("stop"), END, DONE)
    answer = _streamed(*frames)
    assert (answer.texts, answer.token_ns) == (("a",), (30,))


def test_line_ends_of_every_kind_and_values_over_several_lines() -> None:
    pretty = json.dumps(_delta(content="a"), indent=1)
    lines = "".join(f"data: {line}\n" for line in pretty.splitlines())
    for text in (lines + "\n", lines.replace("\n", "\r\n") + "\r\n", f"data:{json.dumps(_delta(content='a'))}\r\r"):
        assert _streamed(text, _delta("stop"), DONE).texts == ("a",)
    assert _streamed(f"data: {json.dumps(_delta(content='a'))}\n", _delta("stop"), DONE).texts == ("a",)


def test_several_prompts_in_one_stream_are_told_apart_by_index() -> None:
    frames = [_delta(content=text, index=n) for n, text in ((1, "b"), (0, "a"), (1, "B"), (0, "A"))]
    answer = _streamed(*frames, _delta("stop", index=0), _delta("stop", index=1), END, DONE, prompts=2)
    assert answer.texts == ("aA", "bB")
    with pytest.raises(BadBody, match=r"expected 1 answer\(s\), got 2"):
        _streamed(*frames, DONE)


def test_choices_come_back_in_the_order_of_the_prompts() -> None:
    assert _whole({"choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]}, 2).texts == ("a", "b")


def test_a_whole_answer_to_a_request_for_a_stream_has_no_token_times() -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], **_usage(1)}
    for text in (json.dumps(body), json.dumps(body, indent=2)):
        answer = _streamed(text)
        assert (answer.texts, answer.output_tokens, answer.token_ns, answer.end_ns) == (("a",), 1, (), 10)


def test_halves_of_a_character_are_joined_and_lone_ones_replaced() -> None:
    first = 'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n'
    second = 'data: {"choices": [{"delta": {"content": "\\ude00 \\ud83d"}, "finish_reason": "stop"}]}\n\n'
    assert _streamed(first, second).texts == ("\U0001f600 \ufffd",)


@pytest.mark.parametrize("value", ["8", 8.5, -1, True, None, [8], 10**30, float("nan")])
def test_a_count_that_is_none_is_absent(value: Any) -> None:
    assert _whole({"choices": [{"text": "a"}], "usage": {"completion_tokens": value}}).output_tokens is None
    assert _whole({"choices": [{"text": "a"}], "usage": {"completion_tokens": 8.0}}).output_tokens == 8


@pytest.mark.parametrize(
    ("texts", "finish", "counted", "tokens"),
    [
        (["aaaa"] * 4, "stop", 9, [2, 2, 2, 2]),
        (["aaaa"] * 4, "stop", 8, [2, 2, 2, 2]),
        (["aaaa"] * 4, "length", 8, [2, 2, 2, 2]),
        (["aaaaaaaa", "aaaaaaaa", "aaaa"], "stop", 11, [4, 4, 2]),
        (["aa", "aaaaaaaa", "aaaaaaaa"], "length", 9, [1, 4, 4]),
        (["aa"] * 8, "stop", 9, [1] * 8),
        (["aa"] * 8, "stop", 8, [1] * 8),
        (["aa"] * 8, "stop", None, [1] * 8),
    ],
)
def test_tokens_of_chunks_are_spread_by_their_text(
    texts: list[str], finish: str, counted: int | None, tokens: list[int]
) -> None:
    last = {"choices": [], **_usage(counted)} if counted is not None else {"choices": []}
    answer = _streamed(*(_delta(content=text) for text in texts), _delta(finish), last, DONE)
    assert answer.token_ns == tuple(10 * n for n, count in enumerate(tokens, 1) for _ in range(count))
    assert answer.hidden_tokens == 0


def test_a_count_beyond_the_whole_text_was_never_sent() -> None:
    answer = _streamed(_delta(content="ab"), _delta(content="c"), _delta("stop"), {"choices": [], **_usage(600)}, DONE)
    assert (answer.token_ns, answer.output_tokens, answer.hidden_tokens) == ((10, 20), 600, 598)


def test_prompt_tokens_from_a_cache_are_counted_where_the_server_does() -> None:
    choice = {"index": 0, "text": "a", "finish_reason": "stop"}
    for details, expected in (
        ({"cached_tokens": 5}, 5),
        ({"cached_tokens": 0}, 0),
        ({}, None),
        (None, None),
        (3, None),
    ):
        usage = _usage(1, prompt_tokens_details=details)
        assert _whole({"choices": [choice], **usage}).cached_tokens == expected
        assert _streamed({"choices": [choice]}, {"choices": [], **usage}, DONE).cached_tokens == expected
    for key in ("prompt_cache_hit_tokens", "cached_tokens"):
        assert _whole({"choices": [choice], **_usage(1, **{key: 5})}).cached_tokens == 5


def test_a_whole_message_after_deltas_stands_for_them() -> None:
    deltas = [_delta(content="a "), _delta(content="b")]
    message = {"role": "assistant", "content": "a b", "reasoning_content": ""}
    last = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    answer = _streamed(*deltas, last, END, DONE)
    assert (answer.texts, answer.token_ns) == (("a b",), (10, 20))


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["The", "The sea", "The sea is", "The sea is"], "The sea is"),
        (["", "a", "ab", "abc"], "abc"),
        (["ha", "haha"], "hahaha"),  # two pieces prove nothing
        (["a", "a", "a", "a"], "aaaa"),
        (["a", "ab", "abc", "d"], "aababcd"),
    ],
)
def test_a_text_that_every_piece_repeats_is_taken_once(pieces: list[str], text: str) -> None:
    answer = _streamed(*(_delta(content=piece) for piece in pieces), _delta("stop"), DONE)
    assert answer.texts == (text,)


def test_a_compressed_answer_is_named() -> None:
    for stream in (True, False):
        form = Form(path="/", parameters={}, stream=stream)
        with pytest.raises(BadBody, match="got gzip; every request asks for identity"):
            PROTOCOLS["openai"].read(form, gzip.compress(b'{"choices": []}'), (), 1)


@pytest.mark.parametrize(
    ("pieces", "first_output"),
    [
        (["<think>", "hm", "</think>", "\n\n", "a", "b"], 50),
        (["hm ", "so </think>\n", "a"], 30),  # the template wrote the beginning into the prompt
        (["hm</thi", "nk>a", "b"], 20),
        (["hm</think>a"], 10),
        (["\n<think>", "hm", " so"], None),  # cut while it thought
        (["<think>", "</think>", " \n"], None),
        (["a <think>", "b"], 10),
        (["a", "b"], 10),
    ],
)
def test_reasoning_left_in_the_text_is_no_output(pieces: list[str], first_output: int | None) -> None:
    answer = _streamed(*(_delta(content=piece) for piece in pieces), _delta("stop"), DONE)
    assert (answer.texts, answer.first_output_ns) == (("".join(pieces),), first_output)
    assert answer.token_ns == tuple(10 * n for n in range(1, len(pieces) + 1))
