"""RequestRecords from what the load processes saw: each answer is read and judged, after the load, in the parent."""

from __future__ import annotations

from engines.adapters.api_key import without_key
from harness.load.client.raw_records import WARMUP_BASE, Exchange
from harness.load.protocol.interface import Answer, BadBody
from harness.load.protocol.request_form import RequestForm
from harness.load.schedule.prompts import RequestOrder
from harness.records import RequestOutcome, RequestRecord

_BY_STATUS: dict[int, RequestOutcome] = {429: "rejected", 503: "rejected"}


def record_of(raw: Exchange, form: RequestForm, order: RequestOrder) -> tuple[RequestRecord, dict[str, str]]:
    """The record of a raw request, and its answers by output id ('<seq>.<place in the request>').

    Token counts prefer our own server's headers to what the body says. Warm-up requests have negative `seq`, so that
    measured ones are numbered 0.. alike in every run, and keep no text.
    """
    place = raw.seq - WARMUP_BASE if raw.is_warmup else raw.seq
    prompts = order.warmup(place) if raw.is_warmup else order.measured(place)
    outcome, error, answer = _judged(raw, len(prompts), form)
    texts = answer.texts if answer is not None and not raw.is_warmup else ()
    outputs = {f"{raw.seq}.{number}": text for number, text in enumerate(texts)}
    record = RequestRecord(
        seq=raw.seq,
        user=raw.user,
        prompt_ids=tuple(prompt.prompt_id for prompt in prompts),
        intended_ns=raw.intended_ns,
        sent_ns=raw.sent_ns,
        first_token_ns=answer.token_ns[0] if answer is not None and answer.token_ns else None,
        done_ns=raw.done_ns,
        outcome=outcome,
        status_code=raw.status_code,
        input_tokens=_count(raw.input_header, answer.input_tokens) if answer is not None else None,
        output_tokens=_count(raw.output_header, answer.output_tokens) if answer is not None else None,
        output_ids=tuple(outputs),
        is_warmup=raw.is_warmup,
        error=error,
        token_ns=answer.token_ns if answer is not None else (),
        connect_ns=raw.connect_ns,
    )
    return record, outputs


def _count(header: str, in_body: int | None) -> int | None:
    return int(header) if header.isdigit() else in_body


def _judged(raw: Exchange, prompts: int, form: RequestForm) -> tuple[RequestOutcome, str, Answer | None]:
    if raw.failure:
        return raw.failure, raw.error, None  # type: ignore[return-value]
    if raw.status_code != 200:
        text = raw.body[:300].decode("utf-8", "replace")
        error = without_key(f"HTTP {raw.status_code}: {text}", form.api_key_env)
        return outcome_of_status(raw.status_code), error, None
    try:
        return "ok", "", form.read(raw.body, raw.marks, prompts)
    except BadBody as error:
        return "bad_body", without_key(str(error), form.api_key_env), None


def outcome_of_status(status_code: int) -> RequestOutcome:
    """503 and 429 are refusals of a full queue; 424 is the container contract's model error."""
    if status_code in _BY_STATUS:
        return _BY_STATUS[status_code]
    return "bad_request" if 400 <= status_code < 500 and status_code != 424 else "server_error"
