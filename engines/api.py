"""The interfaces `Engine` and `Backend`: all that the harness knows about anything that serves a model.

Two interfaces:

* `Engine` is what the harness sees: can it run here (`probe`), what can it do (`capabilities`), start it (`launch`).
* `Backend` is what our own model server hosts, one instance per worker process. `RollingBackend` is a Backend whose
  requests may join and leave at token boundaries.

An engine that has its own server implements `Engine` only. An in-process engine implements `Backend`, and its
`Engine` side is `engines.hosted.HostedEngine`, which starts the model server with that backend inside.
Importing this file imports no engine and no heavy package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from engines.errors import EngineError
from engines.least_memory import LeastMemory
from engines.metrics_page import MetricsPage
from engines.option_values import OptionValues
from engines.setting import OptionValue, Setting

FEATURES = {
    "model_parallel": "Model parallel",
    "loads_hugging_face": "Loads Hugging Face checkpoints",
    "runtime_partition": "Partitions while loading",
    "ahead_of_time_partition": "Partitions ahead of time",
    "partition_on_cpu_memory": "Partitions on CPU memory",
    "streaming": "Token streaming",
    "fast_loading": "Fast loading",
    "hardware": "Hardware",
    "model_kinds": "Model kinds",
    "openai": "OpenAI's protocol",
}
"""Rows of the field's comparison of serving frameworks: key -> heading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether an engine can run here. `reason` explains why not and what to install; `is_of_model`: it is the model,
    on any machine; `versions` are package versions; `note` is what a user should know of what was found."""

    is_available: bool
    reason: str = ""
    is_of_model: bool = False
    note: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


MODEL_FOLDER = "model"
"""The folder that an engine with `has_model_folder` writes to a launch's folder: AWS's LMI containers can serve it."""

START_FILE = "start.sh"
"""The script that an engine with `has_start_file` writes to a launch's folder: it starts the same server for a user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What an engine is on every machine, known without asking it: stored runs are judged by this.

    `is_rented`: each candidate costs money while it exists. `is_elsewhere`: it measures a server that somebody else
    started. `has_own_front`: its server reads no serving.properties; `has_start_file`: it is started by a
    START_FILE instead. `container_rolling_batch`: what AWS's LMI containers call it where it is their rolling batch.
    `is_ours`: it is the bundled engine, shown first.
    `has_model_folder`: its launch writes a MODEL_FOLDER for AWS's LMI containers; `is_carried`: these run it by our own
    code, which such a folder holds.
    `container_entry_point`: the handler of AWS's LMI containers that runs the same library. `container_python`: the
    lowest Python of a container that can run it by a model.py of ours, from `container_weights`. `needs_reference`: its
    answers come from a model, so that they can be compared with that model's in fp32. `may_cache_prompts`: its server
    may have a prefix cache, which serves a prompt that it has seen before without reading it again;
    `prompt_cache_option`: it has one where this option is true. `takes_request`: its server is not ours, so that a
    scenario's workload.request and workload.template apply to it. `model_kinds`: those it serves, where that is known
    without asking it. `least_memory`: what it must have room for; None where that is not known.
    """

    is_rented: bool = False
    is_elsewhere: bool = False
    has_own_front: bool = False
    has_start_file: bool = False
    has_model_folder: bool = False
    is_carried: bool = False
    is_ours: bool = False
    container_rolling_batch: str = ""
    container_entry_point: str = ""
    container_python: tuple[int, int] | None = None
    container_weights: str = ""
    needs_reference: bool = True
    may_cache_prompts: bool = False
    prompt_cache_option: str = ""
    takes_request: bool = False
    model_kinds: tuple[str, ...] = ()
    least_memory: LeastMemory | None = None

    def caches_prompts(self, options: Mapping[str, OptionValue]) -> bool:
        """Whether a server with these options may answer a repeated prompt from a prefix cache."""
        return self.may_cache_prompts or str(options.get(self.prompt_cache_option)).lower() == "true"

    @property
    def is_in_containers(self) -> bool:
        """Whether one of AWS's LMI containers can serve what was measured with it."""
        words = (self.container_entry_point, self.container_rolling_batch)
        return any(words) or self.container_python is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do on this machine.

    `features` answers the rows of FEATURES in a few words each, 'no' where it cannot.
    `effective_dtypes` maps an accepted dtype to what really computes (CTranslate2 runs bf16 as fp32 on some CPUs);
    a dtype that is absent is refused. `options` maps option name -> one-line help. `reasons` maps a refused dtype,
    device, model_type or trait of a model (or "tensor_parallel_degree", "workers") -> why, which a pruned candidate
    reports. `max_workers`, `max_batch_size`: None where any number will do. `has_open_options`: it takes more options
    than it can list. `has_minimum_length`: it can be asked for at least so many tokens; `ignored_parameters`:
    generation parameters that have no effect there. `model_kinds` are those it serves
    (engines.models.checkpoint.kind; none: it reads no model), `architectures` the model_types (none named: all of
    those kinds). `leaves_out` maps a trait with a bound (ModelKind.bounds) -> the model_types of which it computes no
    longer requests. `reads_gguf`: it serves a GGUF file as it is.
    `option_values` maps an option -> what it takes, where that is known before a launch. `context_option` names the one
    that holds the tokens of prompt and answer, of which there are at most `usual_context` without it (0: the model's).
    `only_for` maps a dtype, an option or 'rolling_batch' -> the one kind of model that gets it. `hints` maps a dtype ->
    what to know before choosing it.
    `changes_answers` maps an axis or 'options.<name>' -> the dtypes under which its value changes the answers; () where
    it never does. What it does not list is as in the table of axes, and an option that it does not list changes them.
    """

    effective_dtypes: Mapping[str, str]
    max_tensor_parallel_degree: int = 1
    can_stream: bool = True
    has_rolling_batch: bool = False
    has_minimum_length: bool = True
    ignored_parameters: tuple[str, ...] = ()
    max_workers: int | None = None
    max_batch_size: int | None = None
    has_open_options: bool = False
    devices: tuple[str, ...] = ("cpu",)
    options: Mapping[str, str] = field(default_factory=dict)
    option_values: Mapping[str, OptionValues] = field(default_factory=dict)
    context_option: str = ""
    usual_context: int = 0
    reasons: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    model_kinds: tuple[str, ...] = ("seq2seq",)
    architectures: tuple[str, ...] = ()
    leaves_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads_gguf: bool = False
    only_for: Mapping[str, str] = field(default_factory=dict)
    changes_answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)


QueueOrder = Literal["fifo", "djl-fifo", "heap"]
"""'fifo': first in, first out, each input of a list by itself. 'djl-fifo': DJL Serving's until 0.33, the same with a
list as one job. 'heap': DJL Serving's since 0.34, a list as one job too, in a priority queue of equal priorities, so
that the newest waiting request is served next and the oldest but one last."""

FIRST_HEAP = (0, 34, 0)
"""Read in the source: DJL Serving's job queue is first in, first out until 0.33, and a PriorityBlockingQueue from 0.34
on. Seen on a real 0.36.0 (tests/engines/foreign_servers/djl/recorded/schedules.json)."""


def djl_queue_order(version: tuple[int, ...]) -> QueueOrder:
    """How that version of DJL Serving takes waiting requests."""
    return "heap" if version >= FIRST_HEAP else "djl-fifo"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec(Setting):
    """Everything needed to start one serving configuration: a Setting, and what serves which model in which place.

    `model_dir` is a local Hugging Face folder (already resolved). `python` names the environment that its workers run
    in (see environments; None: this one, or the engine's installed one). `source_root` is another checkout whose
    `engines` package is the whole server (None: this one). `queue_order` is how our model server orders what waits.
    """

    engine: str
    model_dir: Path
    python: str | None = None
    source_root: Path | None = None
    queue_order: QueueOrder = "fifo"

    def as_message(self) -> dict[str, Any]:
        """JSON-able, for a process of the checkout that serves it (so without `source_root`)."""
        return {**asdict(self), "model_dir": str(self.model_dir), "source_root": None}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> EngineSpec:
        """The spec that `as_message` gave."""
        return cls(**{**message, "model_dir": Path(message["model_dir"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one server wants otherwise than others of its protocol, where the wrong words are ignored in silence.

    `exact_tokens` is the field that keeps the end token away until as many tokens as may be are written: 'min_tokens',
    or 'ignore_eos' for a server that knows no minimum below the maximum; 'none' for one that has no such word. `fields`
    are part of every request body; what a user asks for wins. `is_streamed_on_fresh`: it loses streamed requests on a
    connection that has carried one. `returns_ids`: it knows vLLM's field return_token_ids.`takes_generation_config`:
    its parameters, in Hugging Face's words, are one JSON text in the field generation_config; exactly so many tokens
    come by min_new_tokens. With 'no_end' there, which is its continuous batching, they come by an end token that is
    none, so that the real one ends no answer; other answers end at `end_ids`, which it does not know by itself.
    `knows_details`: it adds our own details about an answer's quality; another handler refuses the request for them.
    """

    exact_tokens: Literal["min_tokens", "ignore_eos", "no_end", "none"] = "min_tokens"
    fields: Mapping[str, OptionValue] = field(default_factory=dict)
    is_streamed_on_fresh: bool = False
    returns_ids: bool = False
    takes_generation_config: bool = False
    end_ids: tuple[int, ...] = ()
    knows_details: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where and how to send requests. `protocol`: 'djl' (our server, DJL Serving, SageMaker body), 'openai'
    (completions), 'openai-chat' or 'openai-responses'. `api_key_env` names the environment variable whose value is sent
    as a bearer token ('': none). `metrics` is where the server publishes its metrics; None where it publishes none."""

    url: str
    protocol: str = "djl"
    model_name: str = "model"
    api_key_env: str = ""
    dialect: Dialect = field(default_factory=Dialect)
    metrics: MetricsPage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What really runs, as the engine itself reports it after load. `converted_dir` is the folder of the converted or
    exported model that is served; '' where the model folder itself is. `served_model` is the name that a server of
    somebody else gives its model; '' where it does not. `crashes` counts the workers that ended and were started
    again so far. `queue_order` is how waiting requests were taken; '' for a server that is not ours. `is_slow_to_warm`:
    its times drift at first (a Java virtual machine compiles while it serves), so that its warm-up must last until
    they are steady."""

    effective_dtype: str
    versions: Mapping[str, str]
    load_s: float
    notes: tuple[str, ...] = ()
    converted_dir: str = ""
    served_model: str = ""
    crashes: int = 0
    queue_order: str = ""
    is_slow_to_warm: bool = False


class RunningEngine(Protocol):
    """A started engine. Ends (whole process group, port, temporary files) when its context manager exits."""

    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def facts(self) -> EngineFacts: ...
    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids whose CPU and memory belong to the engine (leader first); empty for an attached endpoint."""
        ...

    def failure(self) -> EngineError | None:
        """None while it runs; else why it ended (OutOfMemory where memory ran out), with the last lines of its log."""
        ...


class Engine(Protocol):
    """One way of serving a model. See tests/conformance/engine_suite.py for the contract in full."""

    name: str

    def probe(self) -> Availability:
        """Cheap; imports nothing heavy; never raises."""
        ...

    def capabilities(self) -> Capabilities:
        """What this machine's build of the engine accepts. May be called only when `probe().is_available`."""
        ...

    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> AbstractContextManager[RunningEngine]:
        """Start serving; yields when ready. Logs go to workdir. Raises LaunchFailed, OutOfMemory, NotReady,
        ModelInvalid, SpecInvalid, Unavailable; after an exception nothing stays behind."""
        ...


@runtime_checkable
class PlacedEngine(Engine, Protocol):
    """An Engine whose own server a scenario's block may name: by an interpreter, a command or a docker image."""

    def placed(self, python: str, command: str, image: str = "") -> Engine:
        """The engine, looked for there; '' where the block names none."""
        ...


@runtime_checkable
class FolderEngine(Engine, Protocol):
    """An Engine that finds out from a model's folder, before any launch, whether it would refuse it."""

    def check_folder(self, model_dir: Path) -> None:
        """Raises ModelInvalid for a model that a launch would refuse; reads no weights."""
        ...


@runtime_checkable
class ScriptedEngine(Engine, Protocol):
    """An Engine with `has_start_file`: each launch starts the START_FILE that it has written."""

    def launch_script(
        self, script: Path, spec: EngineSpec, workdir: Path, ready_timeout_s: float
    ) -> AbstractContextManager[RunningEngine]:
        """As `launch`, with a script that an earlier launch of `spec` wrote."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateParams:
    """Generation parameters with Hugging Face's names and semantics. `temperature` etc. act only with do_sample;
    `early_stopping` (False, True or 'never') and `length_penalty` only with beams."""

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int | None = None
    return_logprobs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One sequence to generate for. `input_ids` are as the model's kind wants them: closed by eos for an encoder, the
    prompt that the answer continues for a decoder-only model."""

    input_ids: tuple[int, ...]
    params: GenerateParams


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One new token of request `index` (position in the batch, or the id that `admit` gave).

    `finish` is None while the request continues, else 'eos' or 'length' or 'cancelled' (then it is the request's last
    event). `token_id` is None on a finish without a token. The eos token itself is delivered (so ids out include it).
    `logprob` is log P(token) in nats, present when return_logprobs was asked.
    With beams, all tokens of the best hypothesis come at the end.
    """

    index: int
    token_id: int | None
    logprob: float | None = None
    finish: str | None = None


class Backend(Protocol):
    """An engine inside a worker process. One instance per worker; used by one thread."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Load and warm up. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        ...

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        """Yield the events of each decode step until every request of the batch has finished. A Backend that cannot
        stream yields once. Params may differ within a batch; raises RequestInvalid if it cannot honour them."""
        ...

    def close(self) -> None: ...


class RollingBackend(Backend, Protocol):
    """A Backend with in-flight batching: requests join and leave at token boundaries."""

    def admit(self, request: GenerateRequest) -> int | None:
        """Take the request into a free slot and return its id; None when every slot is taken."""
        ...

    def step(self) -> Sequence[TokenEvent]:
        """One decode step over all slots; empty when idle. A backend may also have `several_steps(at_most_s)`: the
        events of as many steps as take that long, until a request ends; it is called while nobody streams."""
        ...

    def cancel(self, index: int) -> None: ...
