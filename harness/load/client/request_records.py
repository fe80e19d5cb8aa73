"""RequestRecords made from raw records after the load: each answer is parsed and judged in the parent process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engines.adapters.api_key import without_key
from harness.load.client.raw_records import WARMUP_BASE, Exchange
from harness.load.plan import LoadPlan
from harness.load.protocol.interface import Answer, NoAnswer
from harness.load.protocol.request_form import form_of
from harness.load.protocol.token_counts import count_in_header, total
from harness.load.schedule.lengths import asked_output, shaped
from harness.load.schedule.prompts import RequestOrder
from harness.load.served_model import ServedModel
from harness.records import Prompt, RequestOutcome, RequestRecord

_BY_STATUS: dict[int, RequestOutcome] = {429: "rejected", 503: "rejected"}


class RecordReader:
    """Reads the requests of one load. Answers are read by the endpoint's protocol, tokens counted as token_counts.py
    says."""

    def __init__(self, plan: LoadPlan, model: ServedModel) -> None:
        self._plan = plan
        self._model = model
        self._form = form_of(plan)
        self._order = RequestOrder(plan.prompts, plan.inputs_per_request, plan.seed)

    def record_of(self, raw: Exchange) -> tuple[RequestRecord, dict[str, str]]:
        """The record of a raw request, and its answers by output id ('<seq>.<place in the request>').

        Warm-up requests have negative `seq`, so that measured ones are numbered 0.. alike in every run, and keep no
        text. Never raises for what a server sends.
        """
        place = raw.seq - WARMUP_BASE if raw.is_warmup else raw.seq
        prompts = self._order.warmup(place) if raw.is_warmup else self._order.measured(place)
        record = RequestRecord(
            seq=raw.seq,
            user=raw.user,
            prompt_ids=tuple(prompt.prompt_id for prompt in prompts),
            intended_ns=raw.intended_ns,
            sent_ns=raw.sent_ns,
            first_token_ns=None,
            done_ns=raw.done_ns,
            outcome="ok",
            status_code=raw.status_code,
            input_tokens=None,
            output_tokens=None,
            output_ids=(),
            is_warmup=raw.is_warmup,
            connect_ns=raw.connect_ns,
            asked_tokens=None if raw.is_warmup else asked_output(self._plan, raw.seq, len(prompts)),
        )
        if not raw.is_answered:
            return self._failed(record, *_why_unanswered(raw)), {}
        try:
            answer = self._form.read(raw.body, raw.marks, len(prompts))
        except NoAnswer as error:
            return self._failed(record, error.outcome, str(error)), {}
        record = self._with_answer(record, answer, raw, prompts)
        if blank := self._blank(answer, record, prompts):
            return self._failed(record, "empty", blank), {}
        outputs = {} if raw.is_warmup else {f"{raw.seq}.{number}": text for number, text in enumerate(answer.texts)}
        return replace(record, output_ids=tuple(outputs)), outputs

    def _failed(self, record: RequestRecord, outcome: RequestOutcome, why: str) -> RequestRecord:
        return replace(record, outcome=outcome, error=without_key(why, self._form.api_key_env))

    def _with_answer(
        self, record: RequestRecord, answer: Answer, raw: Exchange, prompts: Sequence[Prompt]
    ) -> RequestRecord:
        asked = _first(count_in_header(raw.input_header), answer.input_tokens)
        generated = _first(count_in_header(raw.output_header), answer.output_tokens)
        counted_by = "" if generated is None else "server"
        if generated is None:
            generated = total(self._model.output_tokens(part.generated) for part in answer.parts)
            counted_by = "" if generated is None else "tokenizer"
        if asked is None:
            sent = prompts if raw.is_warmup else shaped(self._plan, raw.seq, prompts)[0]
            asked = total(self._model.input_tokens(prompt.text) for prompt in sent)
        return replace(
            record,
            first_token_ns=answer.token_ns[0] if answer.token_ns else None,
            first_output_ns=answer.first_output_ns,
            done_ns=raw.done_ns if answer.end_ns is None else answer.end_ns,
            input_tokens=asked,
            output_tokens=generated,
            hidden_tokens=answer.hidden_tokens,
            counted_by=counted_by,
            token_ns=answer.token_ns,
        )

    def _blank(self, answer: Answer, record: RequestRecord, prompts: Sequence[Prompt]) -> str:
        """'' or why this is no answer: a prompt got no token, though its right answer is not known to be empty."""
        parts = answer.parts
        if len(parts) == 1 and record.counted_by == "server":  # the header's count may be all there is
            parts = (replace(parts[0], tokens=record.output_tokens),)
        for part, prompt in zip(parts, prompts, strict=True):
            if part.is_blank and prompt.reference != "" and prompt.prompt_id not in self._model.empty_ids:
                return f"no token at all for prompt {prompt.prompt_id!r}"
        return ""


def _first(*counts: int | None) -> int | None:
    return next((each for each in counts if each is not None), None)


def _why_unanswered(raw: Exchange) -> tuple[RequestOutcome, str]:
    if raw.failure:
        return raw.failure, raw.error  # type: ignore[return-value]
    text = raw.body[:300].decode("utf-8", "replace")
    return outcome_of_status(raw.status_code), f"HTTP {raw.status_code}: {text}"


def outcome_of_status(status_code: int) -> RequestOutcome:
    """503 and 429 are refusals of a full queue; 424 is the container contract's model error."""
    if status_code in _BY_STATUS:
        return _BY_STATUS[status_code]
    return "bad_request" if 400 <= status_code < 500 and status_code != 424 else "server_error"
