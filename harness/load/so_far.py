"""Reading what a load has measured so far, while its processes still write, and the checks that judge it by that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.load.client.raw_records import Exchange, raw_from_line
from harness.load.client.request_records import outcome_of_status
from harness.records import RequestOutcome, RequestRecord
from harness.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """When a load is judged while it runs: once as many requests are measured as one of the numbers in `after` states.
    `why_over` gets the place of that number, the requests finished so far, and the moment (ns) until which these are
    complete; a sentence ends the load, '' does not."""

    after: tuple[int, ...]
    why_over: Callable[[int, Sequence[RequestRecord], int], str]


class SoFar:
    """The finished requests of the load processes that write into `folder`, bodies unread: each line is read once."""

    def __init__(self, folder: Path, parts: int, think_time_s: float) -> None:
        self._paths = [folder / f"raw-{part}.jsonl" for part in range(parts)]
        self._offsets = [0] * parts
        self._until_ns = [0] * parts
        self._think_ns = int(think_time_s * NS_PER_S)
        self._records: list[RequestRecord] = []

    def read(self) -> tuple[list[RequestRecord], int]:
        """(measured requests that are finished, the moment in ns before which no other one finished): a process writes
        them as they finish, at the latest when its user sends the next."""
        for part, path in enumerate(self._paths):
            with path.open("rb") as file:
                file.seek(self._offsets[part])
                lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            self._offsets[part] += len(whole)
            for line in whole.splitlines():
                raw = raw_from_line(line)
                if not raw.is_warmup:
                    self._records.append(_record_of(raw))
                    self._until_ns[part] = max(self._until_ns[part], raw.done_ns)
        return self._records, min(self._until_ns) - self._think_ns


def _record_of(raw: Exchange) -> RequestRecord:
    outcome: RequestOutcome = "ok" if raw.is_answered else outcome_of_status(raw.status_code)
    return RequestRecord(
        seq=raw.seq,
        user=raw.user,
        prompt_ids=(),
        intended_ns=raw.intended_ns,
        sent_ns=raw.sent_ns,
        first_token_ns=None,
        done_ns=raw.done_ns,
        outcome=raw.failure or outcome,  # type: ignore[arg-type]
        status_code=raw.status_code,
        input_tokens=None,
        output_tokens=None,
        output_ids=(),
        is_warmup=False,
    )
