"""The schema of a scenario file; field names are the YAML keys."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from engines.models.random_weights.shapes import SHAPES
from engines.registry import traits
from harness.scenario.asked_metrics import check_levels, check_measured
from harness.scenario.blocks import one_block_per_engine
from harness.scenario.conversations import Conversations, check_conversations
from harness.scenario.cost import Cost
from harness.scenario.engine_block import EngineBlock
from harness.scenario.fields import (
    AtLeastOne,
    AtLeastZero,
    Fraction,
    PositiveSeconds,
    Strict,
    Word,
    expected,
    listed,
    one_of,
)
from harness.scenario.geometric_mean import AnyObjective
from harness.scenario.goals import Bound, Limit, Objective, levels_text, limit_name, limits_fit, named
from harness.scenario.hub_prompts import Prompts
from harness.scenario.lengths import Lengths, check_lengths, cuts_inputs
from harness.scenario.load_kinds import ClosedLoad, Load, MaxRateLoad, Slo, StagesLoad, Template
from harness.scenario.load_list import AnyLoad, LoadList, loads_of
from harness.scenario.racing import why_not_raced
from harness.scenario.request import Parameters, Request
from harness.scenario.served_reference import ServedReference

BUNDLED_MODELS = ("seq2seq", "decoder")
MAX_LOGPROB_DROP = 0.05
READY_TIMEOUT_S = 600.0
"""The first export of a large model takes minutes."""
SAMPLERS = ("gp", "grid", "random", "tpe", "nsga2")


class ModelSource(Strict):
    """Where the weights come from: exactly one of bundled, path, hub, s3, shape."""

    bundled: Annotated[
        Annotated[str, BeforeValidator(one_of("a bundled model", BUNDLED_MODELS))] | None,
        Field(description="a model that comes with dyno: seq2seq (a T5) or decoder (a Llama)"),
    ] = None
    path: Annotated[
        Word | None, Field(description="Hugging Face model folder or GGUF file, relative to the scenario file")
    ] = None
    hub: Annotated[Word | None, Field(description="Hugging Face hub id, such as google/flan-t5-xxl")] = None
    s3: Annotated[str | None, Field(description="s3:// prefix that holds a Hugging Face folder")] = None
    shape: Annotated[
        Annotated[str, BeforeValidator(one_of("a shape", tuple(SHAPES)))] | None,
        Field(description="random weights of a published shape"),
    ] = None
    seed: Annotated[AtLeastZero | None, Field(description="seed of the random weights; only with shape")] = None

    @field_validator("s3")
    @classmethod
    def _is_prefix(cls, prefix: str | None) -> str | None:
        if prefix is not None and not (prefix.startswith("s3://") and len(prefix) > len("s3://")):
            raise expected("an s3:// prefix", prefix, "write s3://bucket/folder")
        return prefix

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelSource:
        given = [name for name in ("bundled", "path", "hub", "s3", "shape") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise expected("exactly one of bundled, path, hub, s3, shape", got, "keep one")
        if self.seed is not None and self.shape is None:
            raise expected("seed only beside shape", self.seed, "remove seed: real weights have none")
        return self


class Workload(Strict):
    """What is sent, how hard, and for how long."""

    prompts: Prompts | None = None
    inputs_per_request: Annotated[AtLeastOne, Field(description="prompts in one request body")] = 1
    parameters: Parameters = Parameters()
    stream: bool = False
    chat: Annotated[
        bool, Field(description="prompts are messages, or each one user message, in the model's chat template")
    ] = False
    template: Annotated[
        Template | None,
        Field(description="request body and answer of a server with a protocol that dyno does not know"),
    ] = None
    request: Annotated[
        Request | None, Field(description="body fields and headers set, added or removed, beside an engine attach")
    ] = None
    conversations: Annotated[
        Conversations | None, Field(description="send every question of a conversation, not the last one alone")
    ] = None
    load: Annotated[
        AnyLoad, Field(description="one load, or a list of loads with names, measured in turn in one launch")
    ] = ClosedLoad()
    lengths: Annotated[Lengths | None, Field(description="tokens of every measured input and answer")] = None
    corpus: Annotated[
        Word | None,
        Field(
            description="text file from which inputs of a length are cut, relative to the scenario; default: bundled"
        ),
    ] = None
    corpus_may_repeat: Annotated[
        bool, Field(description="an input longer than the corpus begins it anew, and two may begin alike")
    ] = False
    locustfile: Annotated[
        Word | None, Field(description="your own User classes as the closed load; runs your code, relative path")
    ] = None
    spawn_per_s: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="users begun per second, beside locustfile; null: all at once",
        ),
    ] = None
    slo: Annotated[Slo | None, Field(description="what makes a request good; gives goodput")] = None
    warmup_requests: AtLeastZero = 16
    requests: Annotated[AtLeastOne, Field(description="measured requests after which a trial stops ...")] = 200
    max_duration_s: Annotated[PositiveSeconds, Field(description="... or this long, whichever is first")] = 15.0
    request_timeout_s: PositiveSeconds = 60.0
    engine_metrics: Annotated[
        bool, Field(description="ask the server's metrics page once a second under load, and name what limits it")
    ] = True
    max_error_frac: Annotated[
        Fraction | None,
        Field(description="a trial ends early, and is not feasible, when a larger share of its requests has failed"),
    ] = None

    @property
    def is_open_loop(self) -> bool:
        """Requests leave on a schedule, whatever is outstanding; of a list, in one of its loads."""
        return any(not isinstance(load, ClosedLoad) for load in loads_of(self.load))

    def _chat_fits(self) -> None:
        for name, is_used in (
            ("inputs_per_request above 1", self.inputs_per_request > 1),
            ("template", self.template is not None),
            ("locustfile", self.locustfile is not None),
        ):
            if is_used:
                raise expected(
                    "one prompt in each request of this tool's own beside chat: true", name, "remove one of them"
                )

    @property
    def cuts_inputs(self) -> bool:
        """Whether requests may carry texts of a corpus."""
        return any(cuts_inputs(self.lengths, load) for load in loads_of(self.load))

    @model_validator(mode="after")
    def _load_fits(self) -> Workload:
        self._locustfile_fits()
        for load in loads_of(self.load):
            self._one_load_fits(load)
        if self.chat:
            self._chat_fits()
        if self.template is not None and self.inputs_per_request != 1:
            raise expected("inputs_per_request: 1 beside a template", self.inputs_per_request)
        if self.stream and self.inputs_per_request != 1:
            raise expected(
                "inputs_per_request: 1 beside stream: true",
                self.inputs_per_request,
                "the times of several answers in one stream are nobody's",
            )
        if self.slo is not None and self.slo.needs_stream and not self.stream:
            raise expected("stream: true, because slo has token times", self.stream)
        return self

    def _one_load_fits(self, load: Load) -> None:
        if load.name is not None and not isinstance(self.load, LoadList):
            raise expected("a name only in a list of loads", load.name, "remove name")
        check_conversations(self.conversations, load, is_chat=self.chat, has_lengths=self.cuts_inputs)
        check_lengths(self.lengths, self.corpus, self.corpus_may_repeat, load, self.locustfile)
        if isinstance(load, StagesLoad) and load.total_s > self.max_duration_s:
            raise expected(f"max_duration_s >= {load.total_s:g}, the sum of the stages", self.max_duration_s)
        if isinstance(load, MaxRateLoad) and not load.slo and self.slo is None:
            raise expected(
                "an SLO beside load.kind max_rate: workload.slo or load.slo",
                "neither",
                "write load: {kind: max_rate, ..., slo: {latency_p99_ms: {max: 200}}}",
            )

    def _locustfile_fits(self) -> None:
        """A locustfile is a closed load in itself: what it defines may not be defined here too."""
        if self.locustfile is not None and self.max_error_frac is not None:
            raise expected("no max_error_frac beside locustfile", self.max_error_frac, "its users decide what failed")
        if self.locustfile is None:
            if self.spawn_per_s is not None:
                raise expected("spawn_per_s only beside locustfile", self.spawn_per_s, "remove spawn_per_s")
            return
        if not isinstance(self.load, ClosedLoad):
            kind = "a list" if isinstance(self.load, LoadList) else self.load.kind
            raise expected("load.kind: closed beside locustfile", kind, "its users decide when to send")
        if self.load.levels:
            raise expected("one number of users beside locustfile", list(levels_text(self.load.levels)))
        if self.load.think_time_s:
            raise expected("no think_time_s beside locustfile", self.load.think_time_s, "write wait_time in the class")
        if self.request is not None and self.request.headers:
            raise expected("no request.headers beside locustfile", list(self.request.headers), "send them in the class")
        if self.template is not None or self.inputs_per_request != 1:
            got = "template" if self.template is not None else f"inputs_per_request: {self.inputs_per_request}"
            raise expected("a locustfile that makes its own bodies", got, f"remove {got.partition(':')[0]}")


class Quality(Strict):
    """When answers count as Normal, against the fp32 reference."""

    prompts: Annotated[AtLeastOne, Field(description="how many prompts, from the top of the file")] = 64
    max_exact_match_drop: Fraction = 0.02
    min_reference_match: Fraction = 0.0
    max_logprob_drop: Annotated[
        float,
        Field(
            gt=0.0,
            description="nats per token that answers may lose under the reference, where exact match means nothing",
        ),
    ] = MAX_LOGPROB_DROP
    reference: Annotated[
        ServedReference | None, Field(description="a server whose answers are the measure; null: the model in fp32")
    ] = None
    reference_folder: Annotated[
        Word | None,
        Field(
            description="Hugging Face folder whose fp32 answers are the measure, such as that of a GGUF file's model"
        ),
    ] = None

    @model_validator(mode="after")
    def _one_reference(self) -> Quality:
        if self.reference is not None and self.reference_folder is not None:
            raise expected("one of reference and reference_folder", "both", "keep one")
        return self


class Confirm(Strict):
    """The best feasible candidates measured again, interleaved, so that the winner is not a lucky draw."""

    finalists: AtLeastZero = 2
    repetitions: Annotated[AtLeastZero, Field(description="further launches of each finalist; 4 state a chance")] = 1


class Search(Strict):
    """How the space is searched, and when the search stops."""

    sampler: Annotated[str, BeforeValidator(one_of("a sampler", SAMPLERS))] = "gp"
    trials: Annotated[AtLeastOne, Field(description="candidates measured at most")] = 12
    max_minutes: Annotated[
        float, Field(gt=0.0, description="minutes of reference, search, finalists and verification")
    ] = 30.0
    seed: AtLeastZero = 0
    confirm: Confirm = Confirm()
    race: Annotated[
        bool | None,
        Field(description="end early what surely loses, or promises nothing in a probe; null: where this is judged"),
    ] = None


class Recommend(Strict):
    """Where the recommendation will be served."""

    container: Annotated[Word, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")] = "dynamometer-0.1"


def _name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", name):
        raise expected("up to 100 lower-case letters, digits and dashes", name, "it becomes a folder name")
    return name


class Scenario(Strict):
    """One scenario: what to serve, what must hold, what to try."""

    name: Annotated[str, AfterValidator(_name)]
    description: str = ""
    model: Annotated[ModelSource | None, Field(description="default: the bundled model")] = None
    workload: Workload = Workload()
    quality: Quality = Quality()
    space: Annotated[tuple[EngineBlock, ...], BeforeValidator(one_block_per_engine), Field(min_length=1)]
    objectives: Annotated[tuple[AnyObjective, ...], BeforeValidator(listed), Field(min_length=1)] = (
        Objective(metric="latency_p50_ms", goal="minimize"),
    )
    constraints: Annotated[dict[Annotated[str, BeforeValidator(limit_name)], Limit], AfterValidator(limits_fit)] = (
        Field(default_factory=dict)
    )
    cost: Annotated[Cost | None, Field(description="prices, and a budget for endpoints")] = None
    ready_timeout_s: Annotated[
        PositiveSeconds,
        Field(description="seconds an engine may take from its launch until it is ready, within search.max_minutes"),
    ] = READY_TIMEOUT_S
    keep_texts: Annotated[
        bool, Field(description="false: of answers only lengths and digests are stored, and no prompt or refusal")
    ] = True
    search: Search = Search()
    recommend: Recommend = Recommend()

    @property
    def knows_model(self) -> bool:
        """Whether the served model is known here: an attached server's is not, unless the scenario names it."""
        return self.model is not None or not all(traits(block.engine).is_elsewhere for block in self.space)

    @property
    def reads_model(self) -> bool:
        """Whether an engine of the scenario reads the model, so that the fp32 reference's answers are its measure."""
        return self.knows_model and any(traits(block.engine).needs_reference for block in self.space)

    @property
    def goal_names(self) -> tuple[str, ...]:
        """The metrics that decide objectives and constraints, each with its level if it has one; `quality` too."""
        ats = {name: limit.at if isinstance(limit, Bound) else None for name, limit in self.constraints.items()}
        judged = (name for one in self.objectives for name in one.judged)
        return (*judged, *(named(name, at) for name, at in ats.items()))

    @property
    def sampler(self) -> str:
        """The sampler that is used: tpe instead of gp where there are several objectives."""
        return "tpe" if self.search.sampler == "gp" and len(self.objectives) > 1 else self.search.sampler

    @property
    def why_not_raced(self) -> tuple[str, object] | None:
        """None where a trial that surely loses ends early, else (what is expected, what is written)."""
        if self.search.race is False:
            return "search.race: true or null", False
        if self.search.race is None and self.search.sampler == "grid":
            return "search.race: true beside sampler: grid, which measures all of it whole", None
        load = self.workload
        return why_not_raced(self.objectives, load.load, load.locustfile, load.slo, load.conversations)

    @field_validator("objectives")
    @classmethod
    def _each_metric_once(cls, objectives: tuple[AnyObjective, ...]) -> tuple[AnyObjective, ...]:
        names = [objective.name for objective in objectives]
        if len(set(names)) != len(names):
            raise expected("every metric once", names)
        return objectives

    @field_validator("space")
    @classmethod
    def _one_incumbent(cls, space: tuple[EngineBlock, ...]) -> tuple[EngineBlock, ...]:
        marked = [block.engine for block in space if block.incumbent]
        if len(marked) > 1:
            raise expected("incumbent: true in one block at most", ", ".join(marked))
        return space

    @model_validator(mode="after")
    def _asks_who_listens(self) -> Scenario:
        """Our own server has one protocol: nobody can change what it is sent."""
        engines = [block.engine for block in self.space]
        for name in ("template", "request"):
            if getattr(self.workload, name) is not None and not any(traits(each).takes_request for each in engines):
                raise expected(
                    f"an engine whose server is not ours, such as attach, beside workload.{name}",
                    ", ".join(dict.fromkeys(engines)),
                    f"remove {name}, and write generation parameters into workload.parameters",
                )
        return self

    @model_validator(mode="after")
    def _races_what_it_can(self) -> Scenario:
        if self.search.race and (why := self.why_not_raced) is not None:
            raise expected(f"{why[0]} beside search.race: true", why[1], "remove race: then no trial is raced")
        return self

    @model_validator(mode="after")
    def _loads_what_it_asks_for(self) -> Scenario:
        """A metric that this workload cannot have is refused here, not after every candidate was measured."""
        load, names = self.workload.load, self.goal_names
        check_levels(load, names, self.objectives)
        own = tuple(load.slo) if isinstance(load, MaxRateLoad) else ()
        streamed, slo = self.workload.stream, self.workload.slo
        check_measured(load, (*names, *own), self.objectives, is_streamed=streamed, slo=slo)
        return self


def json_schema() -> dict[str, Any]:
    """JSON Schema of scenario files, for editors; an axis may be one value or a list, which pydantic does not
    distinguish."""
    schema = Scenario.model_json_schema()
    block = schema["$defs"]["EngineBlock"]["properties"]
    for name, field in block.items():
        if field.get("type") == "array":
            block[name] = _scalar_or_list(field)
    block["engine"] = _scalar_or_list({"title": "Engine", "type": "array", "items": {"type": "string"}})
    block["options"]["additionalProperties"] = _scalar_or_list(block["options"]["additionalProperties"])
    return schema


def _scalar_or_list(array: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {name: array[name] for name in ("default", "title", "description") if name in array}
    plain = {name: value for name, value in array.items() if name not in about}
    return {**about, "anyOf": [plain["items"], {**plain, "minItems": 1, "uniqueItems": True}]}
