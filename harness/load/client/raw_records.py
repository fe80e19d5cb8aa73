"""The file a load process leaves: one JSON line per request, bodies unparsed; and how it becomes RequestRecords."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.adapters.api_key import without_key
from harness.load.plan import LoadPlan
from harness.load.protocol.answers import Answer, BadBody, Received, parse_answer
from harness.load.schedule.prompts import RequestOrder
from harness.records import RequestOutcome, RequestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRequest:
    """One request as the load process saw it. `failure` is '' when an HTTP answer came."""

    seq: int
    user: int
    is_warmup: bool
    intended_ns: int
    sent_ns: int
    done_ns: int
    status_code: int
    failure: str
    error: str
    input_header: str
    output_header: str
    connect_ns: int | None
    marks: tuple[tuple[int, int], ...]
    body: bytes

    def line(self) -> bytes:
        """One JSON line. The body travels as Latin-1, which maps every byte to one character."""
        values = [getattr(self, name) for name in _NAMES]
        values[-1] = self.body.decode("latin-1")
        return json.dumps(values, separators=(",", ":")).encode("ascii") + b"\n"


_NAMES = tuple(RawRequest.__dataclass_fields__)


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of one file; a torn last one (the process was killed) is left out."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def read_raw(path: Path) -> Iterator[RawRequest]:
    """The requests of one file."""
    return map(raw_from_line, whole_lines(path))


def raw_from_line(line: bytes) -> RawRequest:
    """The request of one whole line."""
    values: list[Any] = json.loads(line)
    fields = dict(zip(_NAMES, values, strict=True))
    fields["body"] = fields["body"].encode("latin-1")
    fields["marks"] = tuple((int(at_ns), int(length)) for at_ns, length in fields["marks"])
    return RawRequest(**fields)


def shifted(raw: RawRequest, by_ns: int) -> RawRequest:
    """`raw` with every time moved, durations kept; what another host's clock said, on ours."""
    if by_ns == 0:
        return raw
    return replace(
        raw,
        intended_ns=raw.intended_ns + by_ns,
        sent_ns=raw.sent_ns + by_ns,
        done_ns=raw.done_ns + by_ns,
        marks=tuple((at_ns + by_ns, length) for at_ns, length in raw.marks),
    )


_BY_STATUS: dict[int, RequestOutcome] = {429: "rejected", 503: "rejected"}


def record_of(raw: RawRequest, plan: LoadPlan, order: RequestOrder) -> tuple[RequestRecord, dict[str, str]]:
    """The record of a raw request, and its answers by output id ('<seq>.<place in the request>').

    Warm-up requests have negative `seq`, so that measured ones are numbered 0.. alike in every run, and keep no text.
    """
    place = raw.seq - WARMUP_BASE if raw.is_warmup else raw.seq
    prompts = order.warmup(place) if raw.is_warmup else order.measured(place)
    outcome, error, answer = _judge(raw, len(prompts), plan)
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
        input_tokens=answer.input_tokens if answer is not None else None,
        output_tokens=answer.output_tokens if answer is not None else None,
        output_ids=tuple(outputs),
        is_warmup=raw.is_warmup,
        error=error,
        token_ns=answer.token_ns if answer is not None else (),
        connect_ns=raw.connect_ns,
    )
    return record, outputs


WARMUP_BASE = -1_000_000_000
"""Warm-up request number k has seq WARMUP_BASE + k."""


def _judge(raw: RawRequest, prompts: int, plan: LoadPlan) -> tuple[RequestOutcome, str, Answer | None]:
    if raw.failure:
        return raw.failure, raw.error, None  # type: ignore[return-value]
    if raw.status_code != 200:
        text = raw.body[:300].decode("utf-8", "replace")
        said = without_key(f"HTTP {raw.status_code}: {text}", plan.api_key_env)
        return outcome_of_status(raw.status_code), said, None
    received = Received(
        body=raw.body,
        input_header=raw.input_header,
        output_header=raw.output_header,
        marks=raw.marks,
        answer_path=plan.answer_path,
    )
    try:
        return "ok", "", parse_answer(received, prompts, plan.protocol, plan.stream)
    except BadBody as error:
        return "bad_body", without_key(str(error), plan.api_key_env), None


def outcome_of_status(status_code: int) -> RequestOutcome:
    """503 and 429 are refusals of a full queue; 424 is the container contract's model error."""
    if status_code in _BY_STATUS:
        return _BY_STATUS[status_code]
    return "bad_request" if 400 <= status_code < 500 and status_code != 424 else "server_error"
