"""The plan of a load: one record with everything to send, written to a file for the load processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
NO_TURN = -1
"""Stands for the turn before one that begins a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnHistory:
    """That turns carry what the server answered before, and the model's chat template with its special tokens, by which
    they become the text that the model reads; '' where no model is known. `is_kept`: the server keeps the conversation,
    and only what it has not is sent."""

    template: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    is_kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One load: warm-up, then the measured requests.

    Closed loop: `users` users, each sends its next request `think_time_s` after its last answer, until `requests` are
    sent or `max_duration_s` is over. Open loop, where `offsets_ns` states when each request leaves (from the opening of
    the window, never falling): `users` and `requests` mean nothing, `window_s` is the time the schedule
    covers, at most `max_in_flight` requests are outstanding; one that is due then waits, its latency running.
    `follows` names for each request the turn before it in its conversation, NO_TURN for none (() where no request waits
    for another): it is due at its offset, or `think_time_s` after that one's answer, whichever is later; in a closed
    loop the same user sends it then. `turns` are the prompts of the measured requests where each is such a turn, with
    `own_history` the answers in them are replaced by the server's.
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
    user sends it: those of `sent_before` + `seq` in their order, where up to so many came in this launch before. Of
    conversations, so many began before, and `turns` begin with the next one.
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
    follows: tuple[int, ...] = ()
    turns: tuple[Prompt, ...] = ()
    own_history: OwnHistory | None = None
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
    sent_before: int = 0

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
        fields["turns"] = tuple(_prompt(prompt) for prompt in fields["turns"])
        if fields["own_history"] is not None:
            fields["own_history"] = OwnHistory(**fields["own_history"])
        fields["dialect"] = Dialect(**fields["dialect"])
        for name in ("offsets_ns", "follows", "input_lengths", "output_lengths"):
            fields[name] = tuple(fields[name])
        for name in ("cuts", "warmup_cuts"):
            fields[name] = tuple(tuple((begin, end) for begin, end in cut) for cut in fields[name])
        if fields["around"] is not None:
            fields["around"] = tuple(fields["around"])
        return cls(**fields)


def _prompt(fields: dict[str, Any]) -> Prompt:
    messages = tuple((role, content) for role, content in fields.pop("messages"))
    return Prompt(**{**fields, "given": tuple(fields["given"])}, messages=messages)


def share_of(total: int, part: int, parts: int) -> int:
    """How many of `total` belong to part number `part` of `parts`; shares differ by at most one and sum to `total`."""
    return total // parts + (1 if part < total % parts else 0)


def part_of(requests: int, part: int, parts: int) -> range:
    """The request numbers that load process `part` of `parts` sends in an open loop."""
    return range(part, requests, parts)


def firsts_of(plan: LoadPlan, part: int) -> Sequence[int]:
    """The requests of an open loop that load process `part` sends at their own times: all of its part, or those that
    begin its conversations, whose further turns it sends too."""
    if not plan.follows:
        return part_of(len(plan.offsets_ns), part, plan.processes)
    return firsts_in(plan)[part :: plan.processes]


def firsts_in(plan: LoadPlan) -> Sequence[int]:
    """The requests that follow none: those that begin a conversation, or all."""
    if not plan.follows:
        return range(plan.requests)
    return [seq for seq, before in enumerate(plan.follows) if before == NO_TURN]


def next_turns(plan: LoadPlan) -> dict[int, int]:
    """Request -> the turn that follows it."""
    return {before: seq for seq, before in enumerate(plan.follows) if before != NO_TURN}


def most_turns(plan: LoadPlan) -> int:
    """Turns of the longest conversation, 1 where nothing depends."""
    turns: list[int] = []
    for before in plan.follows:
        turns.append(1 if before == NO_TURN else turns[before] + 1)
    return max(turns, default=1)
