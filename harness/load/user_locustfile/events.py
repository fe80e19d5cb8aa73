"""Locust `request` events from a user's locustfile, one JSON line each, and the RequestRecords made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.load.client.raw_records import WARMUP_BASE, whole_lines
from harness.load.client.request_records import outcome_of_status
from harness.records import RequestOutcome, RequestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class FiredRequest:
    """One event. `name`: request type and name, 'POST /invocations'. `failure`: '', 'timed_out', 'connection_failed',
    'failed' (an exception without an HTTP status) or 'refused' (an exception with `status_code`). `answer`: None where
    the locustfile kept none. Tokens are what the locustfile noted, None and () where it noted nothing."""

    user: int
    name: str
    is_measured: bool
    sent_ns: int
    done_ns: int
    status_code: int
    failure: str
    error: str
    prompt_id: str
    input_tokens: int | None
    output_tokens: int | None
    token_ns: tuple[int, ...]
    answer: str | None

    def line(self) -> bytes:
        """One JSON line."""
        values = [getattr(self, name) for name in _NAMES]
        return json.dumps(values, separators=(",", ":")).encode("ascii") + b"\n"


_NAMES = tuple(FiredRequest.__dataclass_fields__)


def read_fired(path: Path) -> Iterator[FiredRequest]:
    """The requests of one file."""
    return map(fired_from_line, whole_lines(path))


def fired_from_line(line: bytes) -> FiredRequest:
    """The request of one whole line."""
    values: list[Any] = json.loads(line)
    fields = dict(zip(_NAMES, values, strict=True))
    fields["token_ns"] = tuple(int(at_ns) for at_ns in fields["token_ns"])
    return FiredRequest(**fields)


def records_of(fired: Sequence[FiredRequest]) -> tuple[list[RequestRecord], dict[str, str]]:
    """Records and kept answers by output id, numbered by send; what was sent outside of the window has negative `seq`.

    No schedule wanted these requests at a time: `intended_ns` is the send, and latency counts from there.
    """
    records: list[RequestRecord] = []
    outputs: dict[str, str] = {}
    measured = others = 0
    for one in sorted(fired, key=lambda each: each.sent_ns):
        seq = measured if one.is_measured else WARMUP_BASE + others
        measured, others = measured + one.is_measured, others + (not one.is_measured)
        output_id = f"{seq}.0" if one.is_measured and one.answer is not None else ""
        if output_id:
            outputs[output_id] = one.answer or ""
        records.append(
            RequestRecord(
                seq=seq,
                user=one.user,
                prompt_ids=(one.prompt_id,) if one.prompt_id else (),
                intended_ns=one.sent_ns,
                sent_ns=one.sent_ns,
                first_token_ns=one.token_ns[0] if one.token_ns else None,
                done_ns=one.done_ns,
                outcome=_outcome(one),
                status_code=one.status_code,
                input_tokens=one.input_tokens,
                output_tokens=one.output_tokens,
                output_ids=(output_id,) if output_id else (),
                is_warmup=not one.is_measured,
                error=one.error,
                token_ns=one.token_ns,
                name=one.name,
            )
        )
    return records, outputs


def _outcome(one: FiredRequest) -> RequestOutcome:
    """A 2xx that the locustfile itself called a failure is a bad body; an exception without a status, the server's."""
    if not one.failure:
        return "ok"
    if one.failure in ("timed_out", "connection_failed"):
        return one.failure  # type: ignore[return-value]
    if one.failure == "failed":
        return "server_error"
    return "bad_body" if one.status_code < 400 else outcome_of_status(one.status_code)
