"""RequestRecords made from raw records after the load: each answer is parsed and judged in the parent process."""

from __future__ import annotations

from collections.abc import Sequence

from engines.adapters.api_key import without_key
from harness.load.client.raw_records import WARMUP_BASE, Exchange
from harness.load.plan import LoadPlan
from harness.load.prompts.lengths import SentPrompts, asked_input, asked_output, shaped
from harness.load.protocol.answer.token_counts import CountedBy, count_in_header, total
from harness.load.protocol.interface import Answer, NoAnswer
from harness.load.protocol.request_form import form_of
from harness.load.served_model import ServedModel
from harness.records import Prompt, RequestOutcome, RequestRecord

_BY_STATUS: dict[int, RequestOutcome] = {429: "rejected", 503: "rejected"}


class RecordReader:
    """Reads the requests of one load. Answers are read by the endpoint's protocol, tokens counted as token_counts.py
    states. `unjudged`: prompts that got no token, and for which nobody has asked the reference."""

    def __init__(self, plan: LoadPlan, model: ServedModel) -> None:
        self._plan = plan
        self._model = model
        self._form = form_of(plan)
        self.unjudged: dict[str, Prompt] = {}
        self._sent = SentPrompts(plan)
        self._known_chars = self._sent_chars = 0

    @property
    def known_input_frac(self) -> float | None:
        """The share of the inputs with which the turn before began, in characters, where the server's own answers are
        the history of turns; else None."""
        return self._known_chars / self._sent_chars if self._sent_chars else None

    def record_of(self, raw: Exchange) -> tuple[RequestRecord, dict[str, str]]:
        """The record of a raw request, and its answers by output id ('<seq>.<place in the request>').

        Warm-up requests have negative `seq`, so that measured ones are numbered 0.. alike in every run, and keep no
        text. Never raises for what a server sends.
        """
        place = raw.seq - WARMUP_BASE if raw.is_warmup else raw.seq
        prompts = self._sent.warmup(place) if raw.is_warmup else self._sent.measured(place)
        outcome, error, answer = self._judged(raw, prompts)
        asked, generated, counted_by = self._counts(raw, answer, prompts) if answer.parts else (None, None, "")
        self._follow(raw, prompts[0], answer)
        if answer.parts and (blank := self._blank(answer, prompts, generated if counted_by == "server" else None)):
            outcome, error = "empty", blank
        texts = answer.texts if outcome == "ok" and not raw.is_warmup else ()
        outputs = {f"{raw.seq}.{number}": text for number, text in enumerate(texts)}
        record = RequestRecord(
            seq=raw.seq,
            user=raw.user,
            prompt_ids=tuple(prompt.prompt_id for prompt in prompts),
            intended_ns=raw.intended_ns,
            sent_ns=raw.sent_ns,
            first_token_ns=answer.token_ns[0] if answer.token_ns else None,
            done_ns=raw.done_ns if answer.end_ns is None else answer.end_ns,
            outcome=outcome,
            status_code=raw.status_code,
            input_tokens=asked,
            output_tokens=generated,
            output_ids=tuple(outputs),
            is_warmup=raw.is_warmup,
            error=without_key(error, self._form.api_key_env) if error else "",
            token_ns=answer.token_ns,
            connect_ns=raw.connect_ns,
            planned_ns=raw.planned_ns,
            first_output_ns=answer.first_output_ns,
            hidden_tokens=answer.hidden_tokens,
            cached_tokens=answer.cached_tokens,
            counted_by=counted_by,
            asked_tokens=None if raw.is_warmup else asked_output(self._plan, raw.seq, len(prompts)),
            asked_input_tokens=None if raw.is_warmup else asked_input(self._plan, raw.seq),
        )
        return record, outputs

    def _follow(self, raw: Exchange, turn: Prompt, answer: Answer) -> None:
        """Keep the answer for the turns behind it, as who sent it did."""
        turns = self._sent.own_turns
        if turns is None or raw.is_warmup:
            return
        self._sent_chars += len(turn.model_text)
        self._known_chars += turns.known_before(turn, raw.seq)
        if answer.parts:
            turns.keep_answer(raw.seq, answer.parts[0].text, answer.response_id)

    def _judged(self, raw: Exchange, prompts: Sequence[Prompt]) -> tuple[RequestOutcome, str, Answer]:
        """(outcome, why it failed or '', the answer; one without parts where there is none)."""
        if raw.failure:
            return raw.failure, raw.error, _NONE  # type: ignore[return-value]
        if not raw.is_answered:
            text = raw.body[:300].decode("utf-8", "replace")
            return outcome_of_status(raw.status_code), f"HTTP {raw.status_code}: {text}", _NONE
        try:
            return "ok", "", self._form.read(raw.body, raw.marks, len(prompts))
        except NoAnswer as error:
            return error.outcome, str(error), _NONE

    def _counts(
        self, raw: Exchange, answer: Answer, prompts: Sequence[Prompt]
    ) -> tuple[int | None, int | None, CountedBy]:
        """(input tokens, output tokens, who counted the output)."""
        asked = _first(count_in_header(raw.input_header), answer.input_tokens) or None  # no prompt is empty
        if asked is None and self._model.folder is not None:
            sent = prompts if raw.is_warmup else shaped(self._plan, raw.seq, prompts)[0]
            asked = total(self._model.input_tokens(prompt) for prompt in sent)
        generated = _first(count_in_header(raw.output_header), answer.output_tokens)
        if generated or (generated is not None and not any(part.generated for part in answer.parts)):
            return asked, generated, "server"
        generated = total(self._model.output_tokens(part.generated) for part in answer.parts)
        return asked, generated, "" if generated is None else "tokenizer"

    def _blank(self, answer: Answer, prompts: Sequence[Prompt], counted: int | None) -> str:
        """'' or why this is no answer: a prompt got no token, though its right answer is not known to be empty. A count
        of the whole request is its only prompt's."""
        for part, prompt in zip(answer.parts, prompts, strict=True):
            if part.generated or (len(prompts) == 1 and (counted or 0) > 1) or not part.is_blank:
                continue
            if prompt.reference != "" and prompt.prompt_id not in self._model.empty_ids:
                if prompt.prompt_id not in self._model.answered_ids:
                    self.unjudged[prompt.prompt_id] = prompt
                return f"no token at all for prompt {prompt.prompt_id!r}"
        return ""


_NONE = Answer(parts=())


def _first(*counts: int | None) -> int | None:
    return next((each for each in counts if each is not None), None)


def outcome_of_status(status_code: int) -> RequestOutcome:
    """503 and 429 are refusals of a full queue; 424 is the container contract's model error."""
    if status_code in _BY_STATUS:
        return _BY_STATUS[status_code]
    return "bad_request" if 400 <= status_code < 500 and status_code != 424 else "server_error"
