"""The plan of a load: one record with everything to send, written to a file for the load processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engines.api import Dialect
from harness.load.corpus.spans import Around, Cut
from harness.records import Prompt

DISK_FULL_STATUS = 74
"""Exit status of a load process that could not write its records (EX_IOERR of sysexits.h)."""

BAD_LOCUSTFILE_STATUS = 65
"""Exit status of a load process that refused a user's own locustfile (EX_DATAERR); its last line explains why."""

START_USERS = 8
"""Users that each load process of an open loop begins with, and warms up with; more follow as they are needed."""
NOBODY = -1
"""The user of a request that was never sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One load: warm-up, then the measured requests.

    Closed loop: `users` users, each sends its next request `think_time_s` after its last answer, until `requests` are
    sent or `max_duration_s` is over. Open loop, where `offsets_ns` states when each request leaves (from the opening of
    the window, never falling): `users`, `think_time_s` and `requests` mean nothing, `window_s` is the time the schedule
    covers, at most `max_in_flight` requests are outstanding; one that is due then waits, its latency running.
    `input_lengths`, `output_lengths` (tokens, one per request or none at all) shape prompts and set max_new_tokens;
    `tokens_per_word` (by prompt id, 1 where it is not named) and the `end_tokens` that the tokenizer adds to a text are
    the estimate used for that in runs without a corpus: else `cuts` (one per prompt of each measured request, () for a
    prompt as it is) and `warmup_cuts` state what of `corpus` they carry, and `around` what the chat template writes
    around it; `unlimited_hit_frac` is what a prefix cache without bound would have of the inputs, None where they share
    nothing on purpose. `template` is the request body of the 'template' protocol,
    `answer_path` where its answer stands. `body` and `headers` change every request, see Form.

    `locustfile` is a user's own, whose User classes then drive the endpoint: `users` of them, `spawn_per_s` begun per
    second (None: all at once); think time, template and lengths mean nothing.

    `dialect` is what the endpoint's server wants otherwise than others of its protocol.

    Where a larger share of the requests than `max_error_frac` has failed, the load is ended early.

    `host` of `hosts` load hosts; each has its own share of a closed loop's requests, numbered host, host + hosts ...

    `endpoint_url` may be a bare host (the protocol's usual path is added) or a full address. `api_key_env` names the
    variable, in the load process's own environment, whose value is sent as a bearer token. `processes` load processes
    share users and work, so request number `seq` carries the same prompts in every run with the same seed, whichever
    user sends it.
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
    offsets_ns: tuple[int, ...] = ()
    window_s: float = 0.0
    max_in_flight: int = 1000
    input_lengths: tuple[int | None, ...] = ()
    output_lengths: tuple[int | None, ...] = ()
    tokens_per_word: Mapping[str, float] = field(default_factory=dict)
    end_tokens: int = 0
    corpus: str = ""
    cuts: tuple[Cut, ...] = ()
    warmup_cuts: tuple[Cut, ...] = ()
    around: Around | None = None
    unlimited_hit_frac: float | None = None
    template: str = ""
    answer_path: str = ""
    body: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    host: int = 0
    hosts: int = 1
    locustfile: str = ""
    locustfile_sha256: str = ""
    spawn_per_s: float | None = None
    api_key_env: str = ""
    max_error_frac: float | None = None
    dialect: Dialect = field(default_factory=Dialect)

    @property
    def is_open_loop(self) -> bool:
        """Requests leave on a schedule."""
        return bool(self.offsets_ns)

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self))

    def write(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> LoadPlan:
        """The plan that `write` wrote."""
        return cls.from_json(path.read_text(encoding="utf-8"))

    @classmethod
    def from_json(cls, text: str) -> LoadPlan:
        """The plan that `to_json` gave."""
        fields: dict[str, Any] = json.loads(text)
        fields["prompts"] = tuple(_prompt(prompt) for prompt in fields["prompts"])
        fields["dialect"] = Dialect(**fields["dialect"])
        for name in ("offsets_ns", "input_lengths", "output_lengths"):
            fields[name] = tuple(fields[name])
        for name in ("cuts", "warmup_cuts"):
            fields[name] = tuple(tuple((begin, end) for begin, end in cut) for cut in fields[name])
        if fields["around"] is not None:
            fields["around"] = tuple(fields["around"])
        return cls(**fields)


def _prompt(fields: dict[str, Any]) -> Prompt:
    messages = tuple((role, content) for role, content in fields.pop("messages"))
    return Prompt(**fields, messages=messages)


def share_of(total: int, part: int, parts: int) -> int:
    """How many of `total` belong to part number `part` of `parts`; shares differ by at most one and sum to `total`."""
    return total // parts + (1 if part < total % parts else 0)


def part_of(requests: int, part: int, parts: int) -> range:
    """The request numbers that load process `part` of `parts` sends in an open loop."""
    return range(part, requests, parts)
