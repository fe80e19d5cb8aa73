"""Candidates of a search space: engine blocks times axes, with impossible ones ruled out and the reason."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from engines.api import Availability, Capabilities, GenerateParams
from engines.models.checkpoint.kind import ModelKind
from engines.registry import traits
from engines.setting import OptionValue
from engines.spec_check import able_with, why_not, why_not_kind, why_not_model
from harness.errors import EnvironmentFault, ScenarioError
from harness.properties.containers import parse_container
from harness.records import Candidate
from harness.scenario.engine_block import EngineBlock
from harness.scenario.lengths import longest
from harness.scenario.resolve import ResolvedScenario
from harness.scenario.schema import Workload
from harness.units import BYTES_PER_MIB

MAX_CANDIDATES = 100_000
"""More than a search could ever measure; a product above it is a mistake in the scenario, and would eat memory."""

Values = tuple[OptionValue | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was ruled out before any launch, why, and how many candidates went with it. `is_everywhere`: by the model or
    by what is asked of it, so that another machine would not do."""

    block: int
    description: str
    reason: str
    count: int
    is_everywhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """One engine block after pruning. `axes` hold only possible values; empty `candidates`: all ruled out.

    `is_incumbent`: its one candidate is in production today. `label` names the block in the study: its engine, or
    engine#index where an engine has several blocks.
    `effective_dtypes` maps dtype -> what really computes; `changes_answers` is that of the engine's Capabilities.
    """

    block: int
    label: str
    engine: str
    axes: Mapping[str, Values]
    candidates: tuple[Candidate, ...]
    effective_dtypes: Mapping[str, str]
    is_incumbent: bool = False
    changes_answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def default(self) -> Candidate:
        """The first value of every axis, as the scenario lists them; measured before anything else."""
        return self.candidates[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRoom:
    """The memory of a machine's GPUs in bytes: of the largest, whose model is `name`, and of all together."""

    name: str
    largest_bytes: float
    total_bytes: float

    @classmethod
    def of(cls, facts: Mapping[str, object]) -> GpuRoom | None:
        """Of a machine with these facts; None without a GPU, or where one does not state its memory."""
        models, sizes_mib = facts.get("gpu_models"), facts.get("gpu_memory_mib")
        if not isinstance(models, list) or not isinstance(sizes_mib, list) or not sizes_mib or None in sizes_mib:
            return None
        sizes = [each * BYTES_PER_MIB for each in sizes_mib]
        largest = max(sizes)
        return cls(name=str(models[sizes.index(largest)]), largest_bytes=largest, total_bytes=sum(sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacePlan:
    """The searchable space. `candidates` are unique, the incumbent's block first, then blocks and axes in the
    scenario's order. `host` is what measures and "has", `host_bytes` its memory, None: that of this machine; `gpus` its
    GPUs, None where it has none or their memory is not known."""

    blocks: tuple[BlockPlan, ...]
    candidates: tuple[Candidate, ...]
    pruned: tuple[Pruned, ...]
    warnings: tuple[str, ...]
    host: str = "this machine has"
    host_bytes: float | None = None
    gpus: GpuRoom | None = None

    @property
    def size(self) -> int:
        """How many candidates can be measured."""
        return len(self.candidates)

    @property
    def is_possible(self) -> bool:
        """Whether this or another machine could measure some."""
        return bool(self.candidates) or not all(each.is_everywhere for each in self.pruned)


def plan_space(
    resolved: ResolvedScenario,
    capabilities: Callable[..., Capabilities | Availability],
    cores: int | None = None,
    why_stale: Callable[[str, str], str] = lambda engine, python: "",
    kind: ModelKind | None = None,
    tokens: int | None = None,
) -> SpacePlan:
    """What can be measured here.

    `capabilities(engine, python)` answers what it can do there, or an Availability saying why not; two more are
    the server's command and image where the block's options name one. `kind` is the model's, None where a download has
    to show it; `tokens` are those of the longest prompt and its answer, where some engines could not compute them. For
    warnings only: `cores` is the number of CPU cores, `why_stale(engine, python)` what is wrong with
    the age of the environment there, or ''. Raises ScenarioError on a product above MAX_CANDIDATES.
    """
    blocks: list[BlockPlan] = []
    pruned: list[Pruned] = []
    for index, block in enumerate(resolved.scenario.space):
        axes = block.axes()
        size = math.prod(len(values) for values in axes.values())
        if size > MAX_CANDIDATES:
            raise ScenarioError(
                f"{resolved.path}: space.{index} ({block.engine}): expected at most {MAX_CANDIDATES} candidates, "
                f"got {size}; list fewer values per axis"
            )
        place = place_of(block, resolved.path.parent)
        able = _able(block, resolved.scenario.workload, kind, tokens or 0, partial(capabilities, block.engine, *place))
        if isinstance(able, Availability):
            pruned.append(_without(index, block, able, size))
            continue
        able = _inside(resolved.scenario.recommend.container, block.engine, able_with(kind, able))
        axes, gone = _prune(index, block.engine, axes, able, tokens or 0)
        pruned += gone
        blocks.append(_block_plan(index, resolved.scenario.space, axes, able, place[0]))
    blocks = sorted((block for block in blocks if block.candidates), key=lambda block: not block.is_incumbent)
    unique: dict[str, Candidate] = {}
    for planned in blocks:
        for candidate in planned.candidates:
            unique.setdefault(candidate.candidate_id, candidate)
    candidates = tuple(unique.values())
    places = dict.fromkeys((candidate.engine, candidate.python) for candidate in candidates)
    stale = filter(None, dict.fromkeys(why_stale(*place) for place in places))
    warnings = (*_repeats(blocks, len(candidates)), *_crowding(candidates, cores), *stale)
    return SpacePlan(blocks=tuple(blocks), candidates=candidates, pruned=tuple(pruned), warnings=warnings)


def _able(
    block: EngineBlock,
    workload: Workload,
    kind: ModelKind | None,
    tokens: int,
    ask: Callable[[], Capabilities | Availability],
) -> Capabilities | Availability:
    """What the block's engine can do, by `ask`; not available where the model or the workload rules it out."""
    reason, served = "", traits(block.engine).model_kinds
    if kind is not None and served:  # before it is looked for: nobody installs what would not do
        reason = why_not_kind(block.engine, kind, served)
    able = ask() if not reason else Availability(is_available=False, reason=reason, is_of_model=True)
    if isinstance(able, Availability):
        return able
    reason = "" if kind is None else why_not_model(block.engine, kind, able, tokens)
    reason = reason or _why_not_asked(block, workload, able, tokens)
    return Availability(is_available=False, reason=reason, is_of_model=True) if reason else able


def _without(index: int, block: EngineBlock, why: Availability, count: int) -> Pruned:
    """A whole block that is ruled out."""
    is_named = block.python and not why.is_of_model
    named = f"{block.engine} (python: {block.python})" if is_named else block.engine
    return Pruned(block=index, description=named, reason=why.reason, count=count, is_everywhere=why.is_of_model)


def require_candidates(plan: SpacePlan, resolved: ResolvedScenario) -> None:
    """Raises when every candidate is ruled out: EnvironmentFault where another machine could run some, else
    ScenarioError."""
    if plan.candidates:
        return
    reasons = "; ".join(dict.fromkeys(f"{each.description}: {each.reason}" for each in plan.pruned))
    if not plan.is_possible:
        raise ScenarioError(f"{resolved.path}: space: none of the candidates can be served on any machine: {reasons}")
    raise EnvironmentFault(
        f"{resolved.path}: space: none of the candidates can be launched on this machine: {reasons}; "
        "`dyno doctor` lists what this machine can launch"
    )


def _why_not_asked(block: EngineBlock, workload: Workload, able: Capabilities, tokens: int) -> str:
    """Why the block's engine cannot be asked what the workload asks, up to `tokens` tokens of prompt and answer; ''
    when it can."""
    engine, parameters, mine = block.engine, workload.parameters, traits(block.engine)
    usual = able.usual_context if able.context_option not in block.options else 0
    if usual and (reason := _why_too_short(f"options.{able.context_option}", usual, able, tokens)):
        return reason
    if workload.chat and (mine.is_rented or (mine.has_own_front and not mine.takes_request)):
        return f"{engine} takes no chat: its server reads plain prompts"
    neutral = GenerateParams()
    for name in able.ignored_parameters:
        value = getattr(parameters, name)
        if value is not None and value != getattr(neutral, name):
            return f"{engine} has no {name}, and it is {value}"
    if (
        workload.lengths is not None
        and workload.lengths.output is not None
        and "min_new_tokens" in able.ignored_parameters
    ):
        return f"{engine} has no min_new_tokens, and workload.lengths.output is {longest(workload.lengths.output)}"
    least, most = parameters.min_new_tokens or 0, parameters.max_new_tokens
    if least not in (0, most) and not able.has_minimum_length:
        return (
            f"{engine} writes up to max_new_tokens ({most}) or exactly so many; min_new_tokens is {least}, "
            f"set it to 0 or {most}"
        )
    return ""


def _inside(container: str, engine: str, able: Capabilities) -> Capabilities:
    """What of it can be recommended: a container of DJL's hands its handlers whole batches."""
    mine = traits(engine)
    is_elsewhere = mine.container_rolling_batch or mine.has_own_front or mine.is_elsewhere or mine.is_rented
    if parse_container(container).is_own or is_elsewhere:
        return able
    reason = f"recommend.container is {container}, whose server hands it whole batches: our own server alone can"
    return replace(able, has_rolling_batch=False, reasons={**able.reasons, "rolling_batch": reason})


def _prune(
    index: int, engine: str, axes: Mapping[str, Values], able: Capabilities, tokens: int
) -> tuple[dict[str, Values], list[Pruned]]:
    """The axes without impossible values. Counts are taken one after the other, so they add up."""
    kept = dict(axes)
    gone: list[Pruned] = []
    for name, values in axes.items():
        for value in values:
            too_short = _why_too_short(name, value, able, tokens)
            reason = why_not(engine, name, value, able) or too_short
            if not reason:
                continue
            count = math.prod(len(left) for axis, left in kept.items() if axis != name)
            kept[name] = tuple(each for each in kept[name] if each is not value and each != value)
            shown = "null" if value is None else value
            what, is_everywhere = f"{engine} {name}={shown}", reason == too_short
            gone.append(Pruned(block=index, description=what, reason=reason, count=count, is_everywhere=is_everywhere))
    return kept, gone


def _why_too_short(name: str, value: OptionValue | None, able: Capabilities, tokens: int) -> str:
    """Why `value` tokens of context are too few for the longest prompt and its answer; '' for another axis."""
    if name != f"options.{able.context_option}" or not isinstance(value, int) or value >= tokens:
        return ""
    return f"prompt and answer need {tokens} tokens, and {value} fit; raise {name}"


def place_of(block: EngineBlock, folder: Path) -> list[str]:
    """The block's `python`, relative to `folder`, and the server's command and image where the options name one."""
    named = [str(block.options.get(name, ("",))[0]) for name in ("command", "image")]
    return [_python(block.python, folder), *(named if any(named) else [])]


def _python(written: str | None, folder: Path) -> str:
    """'' (none), 'auto', or the absolute path; a venv may be a symbolic link, so it is not followed."""
    if written is None or written == "auto":
        return written or ""
    return os.path.normpath(folder.absolute() / Path(written).expanduser())


def _block_plan(
    index: int, space: Sequence[EngineBlock], axes: Mapping[str, Values], able: Capabilities, python: str
) -> BlockPlan:
    engine = space[index].engine
    alone = sum(block.engine == engine for block in space) == 1
    return BlockPlan(
        block=index,
        label=engine if alone else f"{engine}#{index}",
        engine=engine,
        axes=axes,
        candidates=tuple(_candidates(index, engine, axes, python)),
        effective_dtypes=able.effective_dtypes,
        is_incumbent=space[index].incumbent,
        changes_answers=able.changes_answers,
    )


def _candidates(index: int, engine: str, axes: Mapping[str, Values], python: str) -> Iterator[Candidate]:
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        options = {name.removeprefix("options."): point.pop(name) for name in axes if name.startswith("options.")}
        yield Candidate(block=index, engine=engine, python=python, options=options, **point)  # type: ignore[arg-type]


def _repeats(blocks: Sequence[BlockPlan], unique: int) -> list[str]:
    repeated = sum(len(block.candidates) for block in blocks) - unique
    return [f"{repeated} candidates stand in two blocks; each is measured once"] if repeated else []


def _crowding(candidates: Sequence[Candidate], cores: int | None) -> list[str]:
    """A warning, not a reason to prune: oversubscribed threads may still win at low load."""
    if cores is None:
        return []
    crowded = [each for each in candidates if each.device == "cpu" and each.workers * (each.threads or 1) > cores]
    if not crowded:
        return []
    return [f"{len(crowded)} candidates ask for more threads (workers x threads) than the {cores} cores here"]
