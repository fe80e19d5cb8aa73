"""Whatever a server sends, reading it gives an answer or NoAnswer, and never another exception: mutated valid bodies.

`DYNO_FUZZ_EXAMPLES` sets the number of examples of each test (200 by default).
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.load.client.raw_records import Exchange, raw_from_line
from harness.load.client.request_records import RecordReader
from harness.load.plan import LoadPlan
from harness.load.protocol.interface import Answer, Form, NoAnswer
from harness.load.protocol.registry import PROTOCOLS
from harness.load.served_model import UNKNOWN
from harness.records import Prompt
from tests.harness.mutations import EDITS, FUZZ, ODD, edited, places

PROMPTS = tuple(Prompt(prompt_id=name, task="t", text=name, reference=None) for name in "ab")


def _delta(finish: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chunk", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


USAGE = {"usage": {"prompt_tokens": 7, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 1}}}
TOKEN = {"token": {"id": 1, "text": "a", "log_prob": -0.5, "special": False}, "generated_text": None, "details": None}
DETAILS = {"finish_reason": "eos_token", "generated_tokens": 2, "input_tokens": 3, "nonfinite": False}
CALLS = [{"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
PIECES = [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": [{"type": "text", "text": "b"}]}, "c"]
RESPONSE = {
    "id": "r", "object": "response", "status": "completed", "error": None, "incomplete_details": None,
    "output": [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "a b"}, {"type": "refusal", "refusal": "no"}]},
    ],
    "usage": {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}},
}  # fmt: skip
SEEDS: dict[tuple[str, bool], tuple[list[Any], ...]] = {
    ("openai", False): (
        [{"choices": [{"index": 0, "text": "a b", "finish_reason": "stop"}], **USAGE}],
        [{"choices": [{"text": "a", "index": 0}, {"text": "b", "index": 1}], "error": None}],
    ),
    ("openai-chat", False): (
        [{"choices": [{"message": {"role": "assistant", "content": "a b", "reasoning": "hm"}}], **USAGE}],
        [{"choices": [{"message": {"content": None, "tool_calls": CALLS, "refusal": "no"}, "finish_reason": "stop"}]}],
        [{"choices": [{"message": {"content": PIECES}}]}],
        [{"object": "error", "message": "no", "code": 400}],
    ),
    ("openai", True): (
        [{"choices": [{"index": 0, "text": "a "}], **USAGE}, {"choices": [{"text": "b", "finish_reason": "length"}]}],
        [{"choices": [{"index": n, "text": "a", "finish_reason": "stop"}]} for n in range(2)],
    ),
    ("openai-chat", True): (
        [_delta(role="assistant", content=""), _delta(content="a "), {**_delta(content="b"), **USAGE}, _delta("stop"),
         {"choices": [], **USAGE}],
        [_delta(reasoning_content="hm "), _delta(content="b"), _delta(tool_calls=CALLS), _delta("tool_calls")],
        [_delta(content="\ud83d"), _delta(content="\ude00 \ud83d"), _delta(reasoning="\ude00"), _delta("stop")],
        [_delta(role="assistant", content=""), _delta("stop"), {"choices": [], **USAGE}],
        [_delta(content="a"), {"error": {"message": "no", "code": 500}}],
    ),
    ("openai-responses", False): (
        [RESPONSE],
        [{**RESPONSE, "output": [{"type": "function_call", "name": "f", "arguments": "{}"}], "error": None}],
        [{**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "content_filter"}}],
        [{"error": {"message": "no", "code": 400}}],
    ),
    ("openai-responses", True): (
        [{"type": "response.created", "response": {"id": "r"}},
         {"type": "response.reasoning_text.delta", "delta": "hm "},
         {"type": "response.output_text.delta", "delta": "a"},
         {"type": "response.function_call_arguments.delta", "delta": "{}"},
         {"type": "response.completed", "response": RESPONSE}],
        [{"type": "response.refusal.delta", "delta": "no"}, {"type": "response.incomplete", "response": {"id": "r"}}],
        [{"type": "response.failed", "response": {"id": "r", "error": {"code": "x", "message": "no"}}}],
        [RESPONSE],
    ),
    ("djl", False): (
        [{"generated_text": "a b", "details": DETAILS}],
        [[{"generated_text": "a", "details": DETAILS}, {"generated_text": "b", "details": DETAILS}]],
        [{"outputs": ["a", {"generated_text": "b"}]}],
        [[[{"translation_text": "a"}]]],
        ["a string"],
        ["\ud800"],
        [{"code": 424, "type": "ModelError", "message": "no", "error": None}],
    ),
    ("djl", True): (
        [TOKEN, TOKEN, {"generated_text": "aa", "details": DETAILS}],
        [[TOKEN], [{**TOKEN, "generated_text": "aa", "details": DETAILS}]],
        [{"outputs": ["a"]}, {"outputs": ["b"]}],
        [TOKEN, {**TOKEN, "details": DETAILS}],
        [TOKEN, {"error": "no", "code": 424}],
    ),
    ("template", False): ([{"out": [{"text": "a b"}], **USAGE}], [{"error": "no"}]),
    ("template", True): ([{"out": [{"text": "a"}]}, {"out": []}, {"out": [{"text": "b"}], **USAGE}],),
}  # fmt: skip
"""(protocol, whether it streams) -> answers, each as the values of its frames (one where it does not stream)."""


@st.composite
def _frames(draw: st.DrawFn, kind: tuple[str, bool]) -> list[Any]:
    """The frames of a valid answer after up to three changes of values and one of order."""
    frames = list(draw(st.sampled_from(SEEDS[kind])))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(places(frames)))
        frames = edited(frames, path, draw(st.sampled_from(EDITS)), draw(ODD))
        if not isinstance(frames, list):
            frames = [frames]
    return draw(st.permutations(frames)) if draw(st.booleans()) else frames


@st.composite
def _bodies(draw: st.DrawFn, kind: tuple[str, bool]) -> tuple[bytes, list[tuple[int, int]]]:
    """The bytes of mutated frames, perhaps cut, patched or repeated at a byte, and the reads in which they come."""
    frames = draw(_frames(kind))
    indent = draw(st.sampled_from([None, None, 1]))
    texts = [json.dumps(frame, indent=indent, ensure_ascii=draw(st.booleans())) for frame in frames]
    if kind[1]:
        end = draw(st.sampled_from(["\n\n", "\n", "\r\n\r\n", "\r", ""]))
        start = draw(st.sampled_from(["data: ", "data:", "", "event: message\ndata: ", ": x\nid: 1\nretry: 5\ndata: "]))
        close = draw(st.sampled_from(["data: [DONE]\n\n", "data: [DONE]", "", "\n: bye", "event: error\ndata: no\n\n"]))
        text = "".join(f"{start}{one}{end}" for one in texts) + close
    else:
        text = "".join(texts[:1])
    body = text.encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        at, until = sorted(draw(st.integers(0, len(body))) for _ in range(2))
        patch = draw(
            st.one_of(st.binary(max_size=4), st.just(body[at:until]), st.sampled_from([b"\xef\xbb\xbf", b"\0"]))
        )
        body = body[:at] + patch + body[until:] if draw(st.booleans()) else body[:at] + patch + body[at:]
    reads = sorted({*draw(st.lists(st.integers(1, max(1, len(body))), max_size=6)), len(body)})
    return body, [(10 * n, length) for n, length in enumerate(reads, 1)]


def _form(kind: tuple[str, bool]) -> Form:
    return Form(path="/", parameters={}, stream=kind[1], answer_path="out.0.text")


def _is_sound(answer: Answer, marks: list[tuple[int, int]], prompts: int) -> bool:
    """What holds of every answer: it can be stored, its times rise and are times of reads, its counts are counts."""
    times = {at_ns for at_ns, _ in marks}
    for part in answer.parts:
        part.generated.encode("utf-8")
    counts = (answer.input_tokens, answer.output_tokens, answer.hidden_tokens)
    return (
        len(answer.parts) == prompts
        and list(answer.token_ns) == sorted(answer.token_ns)
        and {*answer.token_ns, answer.first_output_ns or marks[-1][0], answer.end_ns or marks[-1][0]} <= times
        and all(each is None or 0 <= each <= 2**32 for each in counts)
    )


@pytest.mark.parametrize("kind", SEEDS, ids=lambda kind: f"{kind[0]}-{'stream' if kind[1] else 'whole'}")
def test_a_mutated_answer_is_read_or_refused(kind: tuple[str, bool]) -> None:
    @FUZZ
    @given(body=_bodies(kind), prompts=st.integers(1, 2))
    def read(body: tuple[bytes, list[tuple[int, int]]], prompts: int) -> None:
        try:
            answer = PROTOCOLS[kind[0]].read(_form(kind), *body, prompts)
        except NoAnswer as error:
            str(error).encode("utf-8")
            return
        assert _is_sound(answer, body[1], prompts)

    read()


@pytest.mark.parametrize("kind", SEEDS, ids=lambda kind: f"{kind[0]}-{'stream' if kind[1] else 'whole'}")
@FUZZ
@given(body=st.binary(max_size=200))
@example(body=b"[" * 200_000)
@example(body=b'{"a":' * 100_000)
@example(body=b"1" * 5000)
@example(body=b"data: " * 50_000)
@example(body=b"data: {\n" * 20_000)
@example(body=b"\xed\xa0\x80")
def test_any_bytes_are_read_or_refused(kind: tuple[str, bool], body: bytes) -> None:
    try:
        PROTOCOLS[kind[0]].read(_form(kind), body, (), 1)
    except NoAnswer as error:
        str(error).encode("utf-8")


@pytest.mark.parametrize("kind", [kind for kind in SEEDS if kind[1]], ids=lambda kind: kind[0])
def test_reads_may_split_a_stream_at_every_byte(kind: tuple[str, bool]) -> None:
    """The answer is the same wherever the reads end, and each token's time is that of the read that completed it."""
    protocol, form = PROTOCOLS[kind[0]], _form(kind)
    for frames in SEEDS[kind]:
        chunks = [f"data: {json.dumps(frame)}\r\n\r\n".encode() for frame in frames]
        body = b"".join(chunks)
        prompts = 2 if frames is SEEDS["openai", True][1] else 1
        try:
            whole = protocol.read(form, body, [(1, len(body))], prompts)
        except NoAnswer:
            continue
        ends = list(itertools.accumulate(len(chunk) for chunk in chunks))
        for split in range(1, len(body)):
            answer = protocol.read(form, body, [(1, split), (2, len(body))], prompts)
            assert answer.texts == whole.texts
            assert len(answer.token_ns) == len(whole.token_ns)
            late = [end - 4 > split for end in ends]
            assert answer.end_ns == 1 + late[-1]
            assert set(answer.token_ns) <= {1, 2}


@FUZZ
@given(
    body=st.one_of(*(_bodies(kind) for kind in SEEDS)),
    kind=st.sampled_from(list(SEEDS)),
    headers=st.tuples(st.text(max_size=12), st.text(max_size=12)),
    status_code=st.sampled_from([200, 200, 200, 201, 204, 400, 503, 99]),
)
def test_a_request_becomes_a_record_whatever_came(
    body: tuple[bytes, list[tuple[int, int]]], kind: tuple[str, bool], headers: tuple[str, str], status_code: int
) -> None:
    plan = LoadPlan(
        endpoint_url="http://h", protocol=kind[0], model_name="m", prompts=PROMPTS, inputs_per_request=1,
        parameters={}, users=1, think_time_s=0.0, warmup_requests=0, requests=1, max_duration_s=1.0,
        request_timeout_s=1.0, stream=kind[1], seed=0, answer_path="out.0.text",
    )  # fmt: skip
    raw = Exchange(
        seq=0, user=0, intended_ns=1, sent_ns=2, done_ns=500, status_code=status_code, body=body[0], marks=body[1],
        input_header=headers[0], output_header=headers[1],
    )  # fmt: skip
    record, outputs = RecordReader(plan, UNKNOWN).record_of(raw_from_line(raw.line()))
    record.error.encode("utf-8")
    assert (record.outcome == "ok") == (record.error == "")
    assert len(outputs) == (record.outcome == "ok")
    assert record.done_ns <= 500
