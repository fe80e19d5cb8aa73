"""A raw request, written as a line and read again, becomes the record and the answers of that request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from harness.load.client.raw_records import WARMUP_BASE, Exchange, raw_from_line, shifted
from harness.load.client.request_records import RecordReader
from harness.load.plan import LoadPlan
from harness.load.served_model import UNKNOWN, ServedModel, empty_ids
from harness.records import Prompt, RequestRecord
from harness.scenario.resolve import BUNDLED_MODEL

PROMPT = Prompt(prompt_id="p", task="t", text="translate this", reference=None)
BODY = json.dumps({"generated_text": "é", "details": {"generated_tokens": 3, "input_tokens": 2}}).encode()
PLAN = LoadPlan(
    endpoint_url="http://h", protocol="djl", model_name="m", prompts=(PROMPT,), inputs_per_request=1, parameters={},
    users=1, think_time_s=0.0, warmup_requests=1, requests=1, max_duration_s=1.0, request_timeout_s=1.0, stream=False,
    seed=0,
)  # fmt: skip


def _answered(**fields: Any) -> Exchange:
    values = {"seq": 4, "user": 1, "intended_ns": 10, "sent_ns": 11, "done_ns": 30, "status_code": 200, "body": BODY}
    return Exchange(**{**values, **fields})


def _record(raw: Exchange, model: ServedModel = UNKNOWN, **plan: Any) -> tuple[RequestRecord, dict[str, str]]:
    return RecordReader(replace(PLAN, **plan), model).record_of(raw)


def _empty(**fields: Any) -> Exchange:
    return _answered(body=json.dumps({"generated_text": ""}).encode(), **fields)


def test_a_line_keeps_every_byte_and_time() -> None:
    raw = _answered(body=bytes(range(256)), marks=[(20, 100), (25, 256)], connect_ns=7)
    assert raw_from_line(raw.line()) == raw


def test_another_host_s_times_are_moved_and_durations_kept() -> None:
    raw = shifted(_answered(marks=[(20, 5)], connect_ns=7), 1000)
    assert (raw.intended_ns, raw.sent_ns, raw.done_ns, raw.marks, raw.connect_ns) == (1010, 1011, 1030, [(1020, 5)], 7)


@pytest.mark.parametrize(("header", "tokens"), [("9", 9), ("", 3), ("²", 3), ("99999999999", 3), ("-1", 3), ("x", 3)])
def test_a_header_s_count_is_preferred_to_the_body_s(header: str, tokens: int) -> None:
    record, outputs = _record(_answered(output_header=header))
    assert (record.output_tokens, record.input_tokens, record.outcome) == (tokens, 2, "ok")
    assert record.counted_by == "server"
    assert outputs == {"4.0": "é"}


def test_a_warm_up_request_keeps_no_answer() -> None:
    record, outputs = _record(_answered(seq=WARMUP_BASE, is_warmup=True))
    assert (record.outcome, record.output_tokens, record.output_ids, outputs) == ("ok", 3, (), {})


@pytest.mark.parametrize("status_code", [200, 201, 206])
def test_every_success_status_is_read(status_code: int) -> None:
    assert _record(_answered(status_code=status_code))[0].outcome == "ok"


def test_nothing_is_no_answer_unless_nothing_is_right() -> None:
    record, outputs = _record(_empty())
    assert (record.outcome, record.output_ids, outputs) == ("empty", (), {})
    assert "no token at all for prompt 'p'" in record.error
    assert _record(_empty(output_header="1"))[0].outcome == "empty", "an end token is none of the answer's"
    assert _record(_empty(output_header="5"))[0].outcome == "ok", "five tokens without a text are tokens"
    assert _record(_empty(), ServedModel(empty_ids=empty_ids({"p": " "})))[0].outcome == "ok"
    assert _record(_empty(), prompts=(replace(PROMPT, reference=""),))[0].outcome == "ok"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b'{"generated_text": "a", "details": {"finish_reason": "error"}}', "server_error"),
        (b'{"error": "no"}', "server_error"),
        (b'{"generated_text": "a", "details": {"finish_reason": "content_filter"}}', "filtered"),
        (b"<html>", "bad_body"),
        (b"", "bad_body"),
        (b"[" * 100_000, "bad_body"),
        (b'{"generated_text": "a", "details": {"generated_tokens": ' + b"1" * 5000 + b"}}", "bad_body"),
    ],
)
def test_what_is_no_answer_has_an_outcome_of_its_kind(body: bytes, outcome: str) -> None:
    record, outputs = _record(_answered(body=body))
    assert (record.outcome, outputs) == (outcome, {})
    assert record.error


def test_an_answer_without_a_count_is_counted_by_the_served_tokenizer() -> None:
    raw = _answered(body=b'{"generated_text": "hello there"}')
    assert _record(raw)[0].output_tokens is None
    record, _ = _record(raw, ServedModel(folder=BUNDLED_MODEL))
    assert record.counted_by == "tokenizer"
    tokenizer = Tokenizer.from_file(str(BUNDLED_MODEL / "tokenizer.json"))
    assert record.output_tokens == len(tokenizer.encode("hello there", add_special_tokens=False).ids)
    assert record.input_tokens == len(tokenizer.encode(PROMPT.text).ids)
    assert _record(raw, ServedModel(folder=Path("/nowhere")))[0].counted_by == ""


def test_a_count_of_nothing_beside_a_text_is_none() -> None:
    counts = {"generated_tokens": 0, "input_tokens": 0}
    raw = _answered(body=json.dumps({"generated_text": "hello there", "details": counts}).encode())
    record, _ = _record(raw)
    assert (record.outcome, record.input_tokens, record.output_tokens, record.counted_by) == ("ok", None, None, "")
    record, _ = _record(raw, ServedModel(folder=BUNDLED_MODEL))
    assert (record.counted_by, bool(record.input_tokens), bool(record.output_tokens)) == ("tokenizer", True, True)
    right = ServedModel(empty_ids=empty_ids({"p": " "}))
    assert _record(_empty(output_header="0"), right)[0].output_tokens == 0, "nothing was right, and is counted"


def test_a_stream_s_record_ends_with_its_last_frame() -> None:
    body = b'{"token": {"id": 1, "text": "a"}}\n{"generated_text": "a"}\n'
    raw = _answered(body=body, marks=[(20, 34), (25, len(body))], done_ns=900)
    record, _ = _record(raw, stream=True)
    assert (record.first_token_ns, record.first_output_ns, record.done_ns) == (20, 20, 25)
    failed, _ = _record(replace(raw, body=body[:34]), stream=True)
    assert (failed.outcome, failed.done_ns) == ("bad_body", 900)


@pytest.mark.parametrize(
    ("plan", "asked"),
    [
        ({}, None),
        ({"parameters": {"max_new_tokens": 8}}, None),
        ({"parameters": {"max_new_tokens": 8, "min_new_tokens": 8}}, 8),
        ({"parameters": {"max_new_tokens": 8, "ignore_eos": True}}, 8),
        ({"output_lengths": (None, None, None, None, 50)}, 50),
    ],
)
def test_a_fixed_output_length_is_noted(plan: dict[str, Any], asked: int | None) -> None:
    assert _record(_answered(), **plan)[0].asked_tokens == asked
