"""The plan of a search as text, before any launch: candidates, what is ruled out, order, minutes, disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from engines.models.tokenizer import FAST_FILE
from engines.registry import traits
from engines.sagemaker.catalogue import Price
from engines.setting import Setting
from harness.cost.price import SECONDS_PER_HOUR, price_of
from harness.cost.spending import Spending
from harness.load.prompts.prompts_file import PromptsFile, read_prompts_file
from harness.load.schedule.estimate import load_requests, load_s, load_text
from harness.load.schedule.trace_facts import TraceFacts, trace_facts
from harness.records import Candidate
from harness.scenario.load_kinds import TraceLoad
from harness.scenario.resolve import NO_FP32, ResolvedScenario
from harness.scenario.schema import Scenario
from harness.space.candidates import BlockPlan, SpacePlan
from harness.space.capabilities import folder_here
from harness.space.chat import prompts_of, token_counts
from harness.space.machine_file import DescribedMachine
from harness.space.memory_text import asked_dtype, memory_lines, reference_read_s
from harness.units import format_duration
from harness.wording import label, lengths_text

LAUNCH_S = 8.0
PROMPT_S = 0.1
KIB_PER_REQUEST = 0.5
"""Assumed, not measured, until the run has trials: launch to ready, one quality or warm-up prompt, one stored
request with its answer. Meant for the bundled model on 2 idle cores; a larger model or a busy machine takes longer, and
the search then stops at its time budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """How long and how large a search may become: an upper estimate from the scenario's caps."""

    trials: int
    repetitions: int
    trial_s: float
    total_s: float
    disk_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds between which 8 of 10 such searches should end, by `trials` of `runs` earlier ones like it; of the
    engines `unknown` none tried any."""

    low_s: float
    high_s: float
    runs: int
    trials: int
    unknown: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """'8 of 10 such searches should take 2 min to 3 min, by 24 trials of 2 earlier runs ...'."""
        earlier = f"{self.trials} trials of {self.runs} earlier run{'' if self.runs == 1 else 's'}"
        between = f"{format_duration(self.low_s)} to {format_duration(self.high_s)}"
        text = f"8 of 10 such searches should take {between}, by {earlier} of this model and load on this machine class"
        return text + (f"; none of them tried {', '.join(self.unknown)}" if self.unknown else "")


AS_DESCRIBED = "its engines were not asked: what one refuses there is not known, and every value counts as possible"
NO_FORECAST = "not known better: no earlier run of this model and load on this machine class in the folder of the runs"


def facts_of(resolved: ResolvedScenario) -> TraceFacts | None:
    """The facts of the trace that a scenario replays, read from its file; None where its load is another."""
    workload = resolved.scenario.workload
    if not isinstance(workload.load, TraceLoad) or resolved.trace_path is None:
        return None
    return trace_facts(workload.load, resolved.trace_path, workload.max_duration_s)


def prompts_text(resolved: ResolvedScenario, trace: TraceFacts | None) -> str:
    """'32 prompts, each sent about 6 times': what a prefix cache of a server would profit from."""
    file = read_prompts_file(resolved.prompts_path, is_chat=resolved.scenario.workload.chat)
    prompts = file.prompts
    different = len({prompt.turns for prompt in prompts})
    text = f"{len(prompts)} prompts"
    if resolved.prompts_revision:
        text += f" of the hub's commit {resolved.prompts_revision[:12]}"
    if file.formats:
        text += f" ({', '.join(file.formats)})"
    if resolved.scenario.workload.chat:
        text += f", {_chat_text(resolved, file)}"
    if file.unused:
        text += f" (not used: {', '.join(file.unused)})"
    if resolved.model.kind == "gguf" and (folder := folder_here(resolved)) and not (folder / FAST_FILE).is_file():
        text += ", their tokens not counted (the file's tokenizer is not known here)"
    if different < len(prompts):
        text += f", {different} of them different"
    workload = resolved.scenario.workload
    if resolved.corpus_path is not None and (trace is None or any(trace.schedule.input_lengths)):
        return (
            f"{text}, for quality; the load's inputs are cut from {resolved.corpus_path.name}, each begins differently"
        )
    sends = (len(trace.schedule.offsets_ns) if trace else load_requests(workload)) * workload.inputs_per_request
    unit = "launch" if workload.load.levels else "load"
    if sends <= different:
        return f"{text}, none sent twice in a {unit}"
    about = "about" if workload.is_open_loop else "up to"
    each = sends / different
    return f"{text}, each sent {about} {f'{each:,.0f}' if each >= 10 else f'{each:.2g}'} times in a {unit}"


def _chat_text(resolved: ResolvedScenario, file: PromptsFile) -> str:
    most = max(len(prompt.turns) for prompt in file.prompts)
    what = "one user message" if most == 1 else f"up to {most} messages"
    text = f"each {what} in the model's chat template"
    folder = folder_here(resolved) if resolved.scenario.reads_model else None
    if folder is not None and (counts := token_counts(prompts_of(resolved, folder), folder)):
        text += f" ({lengths_text(median_low(counts), max(counts))})"
    return f"{text}, {file.cut} without the answers behind the last question" if file.cut else text


def expectation(scenario: Scenario, size: int, trace: TraceFacts | None = None) -> Expectation:
    """The estimate for `size` candidates: launch, quality, warm-up and the load's cap, per trial; never above the
    time budget. Model downloads and conversions are not in it."""
    workload, search = scenario.workload, scenario.search
    trials = min(search.trials, size)
    again = search.confirm.finalists + any(block.incumbent for block in scenario.space)
    repetitions = min(again, trials) * search.confirm.repetitions if trials > 1 else 0
    prompts = scenario.quality.prompts + workload.warmup_requests * workload.inputs_per_request
    seconds, count = load_s(workload), load_requests(workload)
    if trace is not None:
        seconds, count = trace.schedule.duration_s, len(trace.schedule.offsets_ns)
    trial_s = LAUNCH_S + PROMPT_S * prompts + seconds
    asked = count * workload.inputs_per_request + scenario.quality.prompts
    requests = (trials + repetitions) * asked
    return Expectation(
        trials=trials,
        repetitions=repetitions,
        trial_s=trial_s,
        total_s=min(_reference_s(scenario) + (trials + repetitions) * trial_s, search.max_minutes * 60),
        disk_mib=1 + requests * KIB_PER_REQUEST / 1024,
    )


def _reference_s(scenario: Scenario) -> float:
    """The time in which the reference is asked, once."""
    if scenario.quality.reference is not None:
        return PROMPT_S * scenario.quality.prompts
    return LAUNCH_S + PROMPT_S * scenario.quality.prompts if scenario.knows_model else 0.0


def _quality_text(resolved: ResolvedScenario, machine: DescribedMachine | None) -> str:
    """How quality is judged, and what that takes."""
    scenario = resolved.scenario
    served, prompts = scenario.quality.reference, scenario.quality.prompts
    text = f"{prompts} prompts at most, about {format_duration(PROMPT_S * prompts)} of each trial"
    if served is None and not scenario.knows_model:
        return f"{text}; no reference: name the attached model by model:, or quality.reference"
    if served is None and not resolved.has_own_reference:
        return f"{text}; not measured: {NO_FP32}"
    named = f"{resolved.reference_folder or 'the model'} in {asked_dtype(resolved, machine)}"
    asked_s = max(_reference_s(scenario), reference_read_s(resolved, machine))
    who = served.source if served is not None else named
    return f"{text}; compared with {who}, asked once in about {format_duration(asked_s)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Races:
    """What a plan states of races beyond the scenario: `unraced` is the option by which the load is sent from other
    machines, where nothing is raced, or ''; `spreads` how much launches of each engine differ."""

    unraced: str = ""
    spreads: tuple[str, ...] = ()


def plan_lines(
    resolved: ResolvedScenario,
    plan: SpacePlan,
    order: tuple[Candidate, ...],
    races: Races | None = None,
    forecast: Forecast | None = None,
    machine: DescribedMachine | None = None,
) -> Iterator[str]:
    """The plan as a person reads it; `order` are the first candidates to be measured, `forecast` is what earlier runs
    show of its time, `machine` the described one that is planned for, None: one that was asked."""

    scenario = resolved.scenario
    yield f"{scenario.name} ({resolved.path}, digest {resolved.digest})"
    if machine is not None:
        yield f"machine    {machine.text}; {AS_DESCRIBED}"
    known = f"{resolved.model.kind}: {resolved.model.value}"
    yield f"model      {known if scenario.knows_model else 'what the attached server serves; not known here'}"
    trace = facts_of(resolved)
    yield f"prompts    {resolved.prompts_path}: {prompts_text(resolved, trace)}"
    yield f"quality    {_quality_text(resolved, machine)}"
    yield f"load       {load_text(scenario.workload)}"
    if trace is not None:
        yield "trace      " + "\n           ".join(trace.lines())
    yield from (
        f"{'memory' if first else '':11}{line}" for first, line in _numbered(memory_lines(resolved, plan, machine))
    )
    yield f"candidates {plan.size}"
    for block in plan.blocks:
        mark = "; in production today, measured first" if block.is_incumbent else ""
        yield f"  {block.label}: {len(block.candidates)} ({_axes(block)}{mark})"
    if plan.pruned:
        yield f"ruled out  {sum(each.count for each in plan.pruned)}"
        for each in plan.pruned:
            yield f"  {each.description} ({each.count}): {each.reason}"
    for warning in plan.warnings:
        yield f"warning    {warning}"
    if not plan.is_possible:
        yield "nothing is left to measure, on this machine or another"
        return
    if not plan.candidates:
        yield "nothing is left to measure on this machine; `dyno doctor` lists what it can launch"
        yield from _elsewhere(resolved, plan, trace)
        return
    expected = expectation(scenario, plan.size, trace)
    yield from _search_lines(scenario, plan, order, expected, races or Races())
    yield from _time_lines(scenario, plan, expected, forecast, machine)


def _search_lines(
    scenario: Scenario,
    plan: SpacePlan,
    order: tuple[Candidate, ...],
    expected: Expectation,
    races: Races,
) -> Iterator[str]:
    """How many candidates the search tries, what is raced, and what comes first."""
    again = f", then {expected.repetitions} repetitions of finalists" if expected.repetitions else ""
    yield f"search     {scenario.sampler}, {expected.trials} of {plan.size} candidates{again}"
    yield "racing     " + "\n           ".join((_racing_text(scenario, races.unraced), *races.spreads))
    yield "first      " + "\n           ".join(label(candidate) for candidate in order)


def _time_lines(
    scenario: Scenario,
    plan: SpacePlan,
    expected: Expectation,
    forecast: Forecast | None,
    machine: DescribedMachine | None,
) -> Iterator[str]:
    """What the search takes: time, money, disk."""
    search = scenario.search
    yield (
        f"expected   {expected.trials + expected.repetitions} trials of at most {format_duration(expected.trial_s)}: "
        f"at most about {format_duration(expected.total_s)}, budget {format_duration(search.max_minutes * 60)}; "
        "downloads and conversions come on top, once"
    )
    yield f"           {forecast.text if forecast else NO_FORECAST}"
    money = cost_line(scenario, plan.candidates, expected, forecast, machine)
    if money:
        yield f"cost       {money}"
    yield f"disk       about {expected.disk_mib:.0f} MiB of records"


def _racing_text(scenario: Scenario, unraced: str) -> str:
    """What ends a trial early, or why nothing does."""
    if unraced:
        return f"no trial: a race needs load from the machine that serves (here: {unraced})"
    if (why := scenario.why_not_raced) is not None:
        needed, got = why
        return f"no trial: a race needs {needed}" + ("" if got is None else f" (here: {got})")
    metric = scenario.objectives[0].name
    return (
        f"a trial ends early once it is surely worse in {metric} than the best so far, or does not promise by a probe, "
        "by more than launches differ"
    )


def _numbered(lines: Iterator[str]) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it is the first."""
    return ((number == 0, line) for number, line in enumerate(lines))


def _elsewhere(resolved: ResolvedScenario, plan: SpacePlan, trace: TraceFacts | None) -> Iterator[str]:
    """What the same search would be where all that was ruled out can be launched."""
    scenario = resolved.scenario
    size = sum(each.count for each in plan.pruned if not each.is_everywhere)
    there = {each.block for each in plan.pruned if not each.is_everywhere}
    expected = expectation(scenario, size, trace)
    where = "where all of them can be launched"
    yield f"elsewhere  {where}: {scenario.sampler}, {expected.trials} of {size} candidates"
    for block in (block for index, block in enumerate(scenario.space) if index in there):
        axes = {**{name: getattr(block, name) for name in Setting().axes()}, **block.options}
        several = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in axes.items() if len(values) > 1)
        yield f"           {block.engine}: {several or 'one candidate'}"
    yield (
        f"           {expected.trials + expected.repetitions} trials of at most {format_duration(expected.trial_s)}: "
        f"about {format_duration(expected.total_s)}, budget {format_duration(scenario.search.max_minutes * 60)}"
    )
    price = price_of(scenario.cost, Candidate(block=0, engine=scenario.space[0].engine))
    if price is not None:
        usd = price.usd_per_hour * expected.total_s / 3600
        yield f"           about {usd:.2f} USD at {price.usd_per_hour:g} USD/h ({price.origin})"


def cost_line(
    scenario: Scenario,
    candidates: tuple[Candidate, ...],
    expected: Expectation,
    forecast: Forecast | None = None,
    machine: DescribedMachine | None = None,
) -> str:
    """What the search's endpoints may cost, and what a local run is priced at and comes to; '' where there is no
    price."""

    spending = Spending(scenario.cost, expected.trial_s)
    endpoints = sorted(
        (spending.expected_usd(each) for each in candidates if traits(each.engine).is_rented), reverse=True
    )
    if endpoints:
        usd = sum(endpoints[: expected.trials]) + endpoints[0] * expected.repetitions
        limit = f", budget {spending.limit_usd:.2f} USD" if spending.limit_usd is not None else ", no budget set"
        return f"at most about {usd:.2f} USD of endpoints ({len(endpoints)} priced candidates){limit}"
    price = price_of(scenario.cost, candidates[0]) if candidates else None
    if machine is not None and machine.usd_per_hour is not None:
        price = Price(usd_per_hour=machine.usd_per_hour, source="scenario", origin=f"the description of {machine.name}")
    if price is None:
        return ""
    usd = price.usd_per_hour / SECONDS_PER_HOUR
    between = f", {usd * forecast.low_s:.2f} to {usd * forecast.high_s:.2f} USD in 8 of 10" if forecast else ""
    most = f"at most about {usd * expected.total_s:.2f} USD{between}"
    return f"{most}, at {price.usd_per_hour:g} USD/h ({price.origin}); nothing is rented"


def plan_dict(
    resolved: ResolvedScenario,
    plan: SpacePlan,
    order: tuple[Candidate, ...],
    races: Races | None = None,
    forecast: Forecast | None = None,
    machine: DescribedMachine | None = None,
) -> dict[str, Any]:
    """The same plan, JSON-able."""
    races = races or Races()
    trace = facts_of(resolved)
    expected = expectation(resolved.scenario, plan.size, trace)
    return {
        "scenario": resolved.as_dict(),
        "machine": machine.model_dump() if machine else None,
        "memory": list(memory_lines(resolved, plan, machine)),
        "load": load_text(resolved.scenario.workload),
        "trace": trace.as_dict() if trace else None,
        "candidates": plan.size,
        "blocks": [
            {
                "block": block.block,
                "engine": block.engine,
                "candidates": len(block.candidates),
                "axes": dict(block.axes),
            }
            for block in plan.blocks
        ],
        "ruled_out": [
            {"block": each.block, "what": each.description, "candidates": each.count, "why": each.reason}
            for each in plan.pruned
        ],
        "warnings": list(plan.warnings),
        "racing": _racing_text(resolved.scenario, races.unraced),
        "launches": list(races.spreads),
        "first": [candidate.axes() for candidate in order],
        "expected": {
            "trials": expected.trials,
            "repetitions": expected.repetitions,
            "minutes": round(expected.total_s / 60, 2),
            "minutes_8_of_10": [round(each / 60, 2) for each in (forecast.low_s, forecast.high_s)]
            if forecast
            else None,
            "known_by": forecast.text if forecast else NO_FORECAST,
            "disk_mib": round(expected.disk_mib, 1),
            "cost": cost_line(resolved.scenario, plan.candidates, expected, forecast, machine) or None,
        },
    }


_SAME = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Names that engines use for what DJL calls otherwise; worth no remark."""


def _axes(block: BlockPlan) -> str:
    shown = []
    for name, values in block.axes.items():
        if name == "dtype":
            shown.append(f"dtype {', '.join(_dtype(str(value), block) for value in values)}")
        elif len(values) > 1:
            shown.append(f"{name} {', '.join('null' if value is None else str(value) for value in values)}")
    return "; ".join(shown)


def _dtype(dtype: str, block: BlockPlan) -> str:
    runs_as = block.effective_dtypes.get(dtype, dtype)
    return dtype if _SAME.get(runs_as, runs_as).startswith(dtype) else f"{dtype} (runs as {runs_as})"
