"""The records that flow through the tool: Candidate, Trial, RequestRecord, TrialSummary.

Frozen, keyword-only, plain. Times are integer monotonic nanoseconds; wall time appears only in the run manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from engines.setting import OptionValue, Setting, is_newer_default
from harness.level import Level
from harness.race import Race
from harness.reported import Reported

TrialOutcome = Literal[
    "ok", "skipped", "infeasible", "launch_failed", "crashed", "out_of_memory", "timed_out", "client_limited",
    "interrupted", "machine_lost", "ended_early",
]  # fmt: skip
"""'skipped': never launched, because earlier failures made it implausible. 'machine_lost': the machine went away.
'ended_early': it surely lost its race, or broke a constraint, so its load was not finished."""
NOT_MEASURED: tuple[TrialOutcome, ...] = ("interrupted", "machine_lost")
"""Outcomes of a trial that ended before it could prove anything about its candidate."""
RequestOutcome = Literal[
    "ok", "rejected", "bad_request", "server_error", "timed_out", "connection_failed", "bad_body", "filtered", "empty"
]


@dataclass(frozen=True, kw_only=True)  # no slots: a search asks for the ids of hundreds of candidates at every step
class Candidate(Setting):
    """One point of the search space: a Setting of an engine. `block` is the index of its engine block in the scenario;
    `python` the block's environment ('' for none, 'auto', or an absolute path)."""

    block: int
    engine: str
    python: str = ""

    def axes(self) -> dict[str, OptionValue | None]:
        """Axis name -> value, options as 'options.<name>'; what the search varies and the report prints."""
        axes = {"engine": self.engine, **Setting.axes(self)}
        return {**axes, "python": self.python} if self.python else axes

    @cached_property
    def candidate_id(self) -> str:
        """Ten hex digits that name this point, equal in every run and process (SHA-256 over the axes)."""
        named = {name: value for name, value in self.axes().items() if not is_newer_default(name, value)}
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request as the load generator saw it. A request may carry several prompts (`prompt_ids`).

    `intended_ns` is when the schedule wanted it sent (closed loop: when the user became free), `sent_ns` when the
    first byte was written, `first_token_ns` when the first token of any kind came (None unless streaming),
    `first_output_ns` the first one that is not reasoning, `done_ns` when the last byte of the answer arrived (of a
    stream: of its last frame). `hidden_tokens` are counted in `output_tokens` and were never sent, `counted_by` is who
    counted ('server', or the served model's 'tokenizer'), `asked_tokens` the output length where a fixed one was asked
    for, `asked_input_tokens` the input length where a trace asked for one, `cached_tokens` the input tokens that a
    prefix cache had (None: not counted). `planned_ns` is the own time by the schedule of a turn that follows another in
    its conversation; `intended_ns` is later where that one's answer came late. `output_ids` name the answers in
    outputs/<trial>.jsonl. `connect_ns` is the set-up time of the connection (a duration) where this request was the
    first one on it. `name` is set by a user's own locustfile only; there no schedule exists, `intended_ns` is the send,
    and `prompt_ids` may be empty.
    """

    seq: int
    user: int
    prompt_ids: tuple[str, ...]
    intended_ns: int
    sent_ns: int
    first_token_ns: int | None
    done_ns: int
    outcome: RequestOutcome
    status_code: int
    input_tokens: int | None
    output_tokens: int | None
    output_ids: tuple[str, ...]
    is_warmup: bool
    error: str = ""
    token_ns: tuple[int, ...] = ()
    connect_ns: int | None = None
    name: str = ""
    first_output_ns: int | None = None
    hidden_tokens: int = 0
    counted_by: str = ""
    asked_tokens: int | None = None
    asked_input_tokens: int | None = None
    cached_tokens: int | None = None
    planned_ns: int | None = None

    @property
    def latency_ns(self) -> int:
        """done - intended: a stalled server is not forgiven."""
        return self.done_ns - self.intended_ns


IntervalMethod = Literal[
    "none", "order_statistic", "block_bootstrap", "bootstrap", "wilson", "bracket", "race", "mover"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number that knows how it was made. `low`/`high` bound a 95 % interval; None where none exists.

    `method` is how the interval is found ('bracket': the last two rates of a search, 'race': one end, from a trial that
    ended early; 'mover': from the intervals of its parts), `estimator` the whole in words.
    """

    value: float
    unit: str
    estimator: str
    method: IntervalMethod = "none"
    n: int
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def is_unproven(self) -> bool:
        """A percentile of so few samples that they bound it on neither side."""
        return self.low is None and self.high is None and self.method == "order_statistic"


DoubtKind = Literal[
    "few_samples", "short_window", "short_answers", "long_answers", "input_lengths", "repeated_prompts",
    "cached_prompts", "failed_requests", "other_cpu", "client_cpu", "overload",
    "late_sends", "late_turns", "client_pause", "drift", "short_warmup", "token_counts", "stolen_cpu", "cpu_quota",
    "swapping",
    "overheated", "held_back", "task_errors", "cut_off", "ended_early",
    "mixed_requests", "worker_clock", "worker_crashes", "imported", "unclassified",
]  # fmt: skip
"""Every reason to distrust a measurement. 'unclassified': a sentence stored before there were kinds."""

ONLY_WORSE: frozenset[DoubtKind] = frozenset({"other_cpu", "client_cpu", "late_sends", "client_pause"})
"""What can slow an engine down, but never flatters it."""

ABOUT: Mapping[DoubtKind, tuple[str, ...]] = {"few_samples": ("latency_p99_ms", "ttft_p99_ms")}
"""The metrics that a kind of doubt is about; a kind that is not listed is about all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """One reason to distrust a measurement: the kind decides, the sentence is for people."""

    kind: DoubtKind
    sentence: str

    @property
    def only_makes_worse(self) -> bool:
        """It can have slowed the engine down, but not flattered it."""
        return self.kind in ONLY_WORSE

    @property
    def about(self) -> tuple[str, ...]:
        """The metrics in doubt; empty: all of them."""
        return ABOUT.get(self.kind, ())


LimitKind = Literal["kv_cache", "queue", "prefill", "memory_bandwidth", "client"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLimit:
    """What held a load back: the kind, and one sentence with the numbers that show it."""

    kind: LimitKind
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCache:
    """The cache of beginnings as its server published it: `tokens` in all, in blocks of `block_tokens`; or so many
    `slots` that each keep the last request of up to `tokens` (0: there are blocks)."""

    tokens: int
    block_tokens: int = 1
    slots: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSummary:
    """Every number of a trial, by metric name (harness/measure/metrics.py lists the names), why to doubt it, and
    `unavailable` (metric name -> why it could not be measured). `distrust_kinds` has one kind for each sentence of
    `distrust`; raises ValueError where it has not. `limits` is what held the load back, as far as numbers show it;
    None where nobody looked. `prefix_cache` is known where inputs share beginnings and the server names it."""

    metrics: Mapping[str, Metric]
    distrust: tuple[str, ...] = ()
    distrust_kinds: tuple[DoubtKind, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[NamedLimit, ...] | None = None
    prefix_cache: PrefixCache | None = None

    def __post_init__(self) -> None:
        if len(self.distrust) != len(self.distrust_kinds):
            raise ValueError(f"{len(self.distrust)} sentences of distrust, but {len(self.distrust_kinds)} kinds")

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """The sentences of `distrust`, each with its kind."""
        pairs = zip(self.distrust_kinds, self.distrust, strict=True)
        return tuple(Doubt(kind=kind, sentence=sentence) for kind, sentence in pairs)

    def doubted(self, doubts: Iterable[Doubt]) -> TrialSummary:
        """A copy with further doubts."""
        added = tuple(doubts)
        return replace(
            self,
            distrust=(*self.distrust, *(doubt.sentence for doubt in added)),
            distrust_kinds=(*self.distrust_kinds, *(doubt.kind for doubt in added)),
        )


QualityVerdict = Literal["Normal", "Degraded", "Broken", "Unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """Answers compared with the task references and with the fp32 reference engine.

    `verdict` is 'Normal' only when every score is inside the scenario's margin; `metrics` hold exact_match_frac,
    reference_match_frac, token_agreement_frac, logprob_drop_nats, chrf, rouge_l, nonfinite_frac (and
    exact_match_frac.<task>). `inherited_from` is the trial that was judged, where another candidate that computes the
    same answers was; '' where it was this one.
    """

    verdict: QualityVerdict
    reason: str
    metrics: Mapping[str, Metric]
    inherited_from: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One window of several in one launch, in the order measured (from 1): a rate of a maximum-rate search, a level of
    a sweep, or a `load` of a list, by its name. `reason`: what broke the SLO, or the constraints on no particular level
    or on this load; '' if it held.

    `values` are some metrics of the window, in their own units. Its raw records are requests/<trial>.probe<n>.parquet;
    where `is_own` they are the trial's own: those of the largest rate that held, or of the level that it is judged by.
    """

    number: int
    rate_rps: float | None = None
    users: int | None = None
    is_held: bool
    reason: str
    values: Mapping[str, float]
    is_own: bool = False
    load: str = ""

    @property
    def level(self) -> Level:
        """What was asked of the server."""
        if self.load:
            return Level("load", name=self.load)
        return Level("users", self.users) if self.users is not None else Level("rate_rps", self.rate_rps or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFacts:
    """Who applied the model's chat template, and how long it makes the prompts, in tokens of the model's own tokenizer;
    None where that is not here to count them. `history` is whose answers conversations carry ('': none are sent)."""

    template_by: Literal["server", "dyno"]
    tokens_p50: int | None = None
    tokens_max: int | None = None
    history: Literal["", "recorded", "own", "server"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate, launched, checked, loaded and stopped - or the reason why not. `converted_dir` is where the
    converted or exported model lay that was served; '' where the model folder itself was. `served_model` is the name
    that a server of somebody else gave its model, `queue_order` how our server took waiting requests ('fifo', 'heap'),
    `machine` and `machine_class` those it ran on: each '' where there is none and in older runs. `repetition` is the
    round of the finalists that it belongs to, 0: a measurement of the search. `chat` is there where the scenario is
    one, `race` where it ended early. `reported` is what another tool made of the same load, where that measured.
    `unranked` is why it does not count, from run.json: its machine differs."""

    trial_id: str
    number: int
    candidate: Candidate
    outcome: TrialOutcome
    reason: str = ""
    started_utc: str = ""
    phase_s: Mapping[str, float] = field(default_factory=dict)
    effective_dtype: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    converted_dir: str = ""
    summary: TrialSummary | None = None
    quality: QualityReport | None = None
    violations: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    served_model: str = ""
    queue_order: str = ""
    machine: str = ""
    machine_class: str = ""
    repetition: int = 0
    chat: ChatFacts | None = None
    race: Race | None = None
    reported: tuple[Reported, ...] = ()
    unranked: str = ""

    @property
    def has_numbers(self) -> bool:
        """It was measured, if not to the end."""
        return self.outcome in ("ok", "ended_early")

    @property
    def is_feasible(self) -> bool:
        """It ran and broke no constraint, on a machine whose numbers count."""
        return self.outcome == "ok" and not self.violations and not self.unranked

    @property
    def is_judged(self) -> bool:
        """Its own answers were judged, not those of another candidate."""
        return self.quality is not None and not self.quality.inherited_from

    @property
    def duration_s(self) -> float:
        """Seconds that it took, all phases together."""
        return sum(self.phase_s.values())

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Reasons to distrust its numbers; empty where it has none."""
        return self.summary.doubts if self.summary is not None else ()


def next_number(trials: Iterable[Trial]) -> int:
    """The number of the trial that follows `trials`."""
    return max((trial.number for trial in trials), default=0) + 1


Message = tuple[str, str]
"""The role and the text of one turn of a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a server keeps of a conversation: so many of its first `messages`, up to the answer with this id."""

    response_id: str = ""
    messages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One line of a prompts file. `reference` is the wanted answer, where one is known. In a chat `messages` are the
    conversation that the file has, none where it has one text, and `rendered` is what the model's chat template makes
    of the `turns`. Where some are more than a role and a text (tool calls, tools' answers), `given` are the messages in
    JSON as the file has them. `kept` is what need not be sent, where the server is to keep the conversation."""

    prompt_id: str
    task: str
    text: str
    reference: str | None
    rendered: str | None = None
    messages: tuple[Message, ...] = ()
    given: tuple[str, ...] = ()
    kept: Kept | None = None

    @property
    def sent_messages(self) -> list[dict[str, Any]]:
        """The turns as a server with a chat is sent them."""
        if self.given:
            return [json.loads(message) for message in self.given]
        return [{"role": role, "content": content} for role, content in self.turns]

    @property
    def turns(self) -> tuple[Message, ...]:
        """Role and text of each message."""
        return self.messages or (("user", self.text),)

    @property
    def model_text(self) -> str:
        """What the model reads."""
        return self.text if self.rendered is None else self.rendered
