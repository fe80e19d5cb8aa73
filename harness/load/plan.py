"""What the load generator is asked to do: one record, written to a file for the load processes to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.records import Prompt

DISK_FULL_STATUS = 74
"""Exit status of a load process that could not write its records (EX_IOERR of sysexits.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One load: warm-up, then `requests` measured requests or `max_duration_s`, whichever comes first.

    `kind` tags the arrival law. 'closed': `users` users, each sends its next request `think_time_s` after its last
    answer. `endpoint_url` may be a bare host (the protocol's usual path is added) or a full address. `processes` load
    processes share the users and one global ticket counter, so request number `seq` carries the same prompts in every
    run with the same seed, whichever user sends it.
    """

    endpoint_url: str
    protocol: str
    model_name: str
    prompts: tuple[Prompt, ...]
    inputs_per_request: int
    parameters: Mapping[str, object]
    users: int
    think_time_s: float
    warmup_requests: int
    requests: int
    max_duration_s: float
    request_timeout_s: float
    stream: bool
    seed: int
    processes: int = 1
    kind: str = "closed"

    def write(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> LoadPlan:
        """The plan that `write` wrote."""
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fields["prompts"] = tuple(Prompt(**prompt) for prompt in fields["prompts"])
        return cls(**fields)


def share_of(total: int, part: int, parts: int) -> int:
    """How many of `total` belong to part number `part` of `parts`; shares differ by at most one and sum to `total`."""
    return total // parts + (1 if part < total % parts else 0)
