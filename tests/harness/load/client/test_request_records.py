"""A raw request, written as a line and read again, becomes the record and the answers of that request."""

from __future__ import annotations

import json

from harness.load.client.raw_records import WARMUP_BASE, Exchange, raw_from_line, shifted
from harness.load.client.request_records import record_of
from harness.load.protocol.interface import Form
from harness.load.protocol.registry import PROTOCOLS
from harness.load.protocol.request_form import RequestForm, address_of
from harness.load.schedule.prompts import RequestOrder
from harness.records import Prompt

PROMPTS = (Prompt(prompt_id="p", task="t", text="text", reference=None),)
ORDER = RequestOrder(PROMPTS, 1, 0)
FORM = RequestForm(address=address_of("http://h", "djl"), protocol=PROTOCOLS["djl"], form=Form(path="/", parameters={}))
BODY = json.dumps({"generated_text": "é", "details": {"generated_tokens": 3, "input_tokens": 2}}).encode()


def _answered(**fields: object) -> Exchange:
    values = {"seq": 4, "user": 1, "intended_ns": 10, "sent_ns": 11, "done_ns": 30, "status_code": 200, "body": BODY}
    return Exchange(**{**values, **fields})  # type: ignore[arg-type]


def test_a_line_keeps_every_byte_and_time() -> None:
    raw = _answered(body=bytes(range(256)), marks=[(20, 100), (25, 256)], connect_ns=7)
    assert raw_from_line(raw.line()) == raw


def test_another_host_s_times_are_moved_and_durations_kept() -> None:
    raw = shifted(_answered(marks=[(20, 5)], connect_ns=7), 1000)
    assert (raw.intended_ns, raw.sent_ns, raw.done_ns, raw.marks, raw.connect_ns) == (1010, 1011, 1030, [(1020, 5)], 7)


def test_a_header_s_count_is_preferred_to_the_body_s() -> None:
    record, outputs = record_of(_answered(output_header="9"), FORM, ORDER)
    assert (record.output_tokens, record.input_tokens, record.outcome) == (9, 2, "ok")
    assert outputs == {"4.0": "é"}


def test_a_warm_up_request_keeps_no_answer() -> None:
    record, outputs = record_of(_answered(seq=WARMUP_BASE, is_warmup=True), FORM, ORDER)
    assert (record.outcome, record.output_tokens, record.output_ids, outputs) == ("ok", 3, (), {})
