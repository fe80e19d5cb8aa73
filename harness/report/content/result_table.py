"""The result table of a report: one row per trial, repetitions of a candidate listed one by one.

Model | Engine | Quantization | Batch size | Tensor parallel degree | Workers | P50 | P90 | P99 (ms) | Data quality, as
the published benchmarks print it, then the other axes that vary, throughput, errors, memory, n and intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engines.registry import traits
from engines.setting import AXES
from harness.choose.decide import TIE_FRAC
from harness.choose.goals import Objective, run_goals
from harness.choose.recommendation import choose
from harness.errors import MeasurementInvalid, UsageError
from harness.measure.metric_def import MetricDef
from harness.measure.metrics import METRICS, adds_detail, metric_of, metric_row
from harness.recommendation import Recommendation
from harness.records import Candidate, ChatFacts, DoubtKind, Metric, Trial
from harness.report.wording.limits import limit_notes
from harness.report.wording.numbers import ABSENT, interval_cell, metric_text, number
from harness.report.wording.prefix_caches import cache_notes
from harness.report.wording.titles import value_word
from harness.store.reader import Run
from harness.wording import chat_text, label

Mark = Literal["best", "tie", "broke constraint", "ended early", "probed", "not ranked", ""]

Cell = Callable[[Trial], str]

HIGH_PRIORITY = 0
"""Columns of the published table: never left out of a narrow terminal."""

_PUBLISHED_AXES = ("dtype", "batch_size", "tensor_parallel_degree", "workers")
"""Axes that the published table has columns for; the others have one where they vary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column head; a higher `priority` number is left out earlier where space is short. `metric`: what it shows."""

    title: str
    priority: int = HIGH_PRIORITY
    is_number: bool = True
    metric: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured trial as cells."""

    trial: Trial
    mark: Mark
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One trial without usable numbers, and why."""

    trial_id: str
    label: str
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """The whole table. `notes` explain what a reader could misread."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


def report_table(run: Run, sort: str | None = None) -> ReportTable:
    """The table of a run, sorted by `sort` (default: the first objective), better first. Raises UsageError on an
    unknown metric."""
    recommendation = recommendation_of(run)
    measured = [trial for trial in run.trials if trial.has_numbers]
    ordered = _sorted(measured, _sort_by(run, sort))
    marks = _marks(measured, recommendation)
    fields = _fields(run, measured)
    failures = tuple(
        Failure(
            trial_id=trial.trial_id, label=label(trial.candidate), outcome=trial.outcome, reason=one_line(trial.reason)
        )
        for trial in run.trials
        if not trial.has_numbers
    )
    return ReportTable(
        title=f"{run.manifest.scenario.get('name', run.root.name)}: {run.root.name}",
        columns=tuple(column for column, _ in fields),
        rows=tuple(_row(trial, marks[trial.trial_id], fields) for trial in ordered),
        failures=failures,
        notes=_notes(run, measured, recommendation),
    )


def recommendation_of(run: Run) -> Recommendation | None:
    """The run's recommendation, None when nothing can be recommended."""
    try:
        return choose(run)
    except MeasurementInvalid:
        return None


def why_nothing(run: Run) -> str:
    """Why the run has no recommendation; '' when it has one."""
    try:
        choose(run)
    except MeasurementInvalid as error:
        return str(error)
    return ""


def is_unfinished(run: Run) -> bool:
    """Whether the run is of a search that has not ended on its own: still running, stopped or killed."""
    return "tune" in run.manifest.command[:2] and not run.layout.search_json.exists()


def model_name(run: Run) -> str:
    """A short name of the served model: the folder's, the hub id, the s3 prefix, the shape; of servers that somebody
    else started, the names that they give."""
    resolved: Any = run.manifest.scenario.get("resolved", {})
    model = resolved.get("model", {})
    if run.manifest.scenario.get("model") is None and all(traits(t.candidate.engine).is_elsewhere for t in run.trials):
        names = dict.fromkeys(name for trial in run.trials if (name := served_model(trial)))
        if names:
            return ", ".join(names)
    value = str(model.get("value", "")) or "unknown"
    if model.get("kind") in ("path", "gguf"):
        return Path(value).name
    return f"{value} (random weights)" if model.get("kind") == "shape" else value


def served_model(trial: Trial) -> str:
    """The model of a server that somebody else started, as it or the scenario names it; '' of other engines."""
    if not traits(trial.candidate.engine).is_elsewhere:
        return ""
    return trial.served_model or str(trial.candidate.options.get("model_name", "unknown"))


def quantization(trial: Trial) -> str:
    """The dtype asked for, and what really computed where the engine reports another."""
    if traits(trial.candidate.engine).is_elsewhere:  # the axis says nothing: nobody started it with a dtype
        return trial.effective_dtype or "unknown"
    asked, computed = trial.candidate.dtype, trial.effective_dtype
    same = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    if not computed or computed.lower() in (asked.lower(), same.get(asked, "")):
        return asked
    return f"{asked} (ran {computed})" if not computed.startswith(asked) else computed


def one_line(reason: str) -> str:
    """The reason without line breaks; the log holds it as it was."""
    return " ".join(reason.split())


def _fields(run: Run, trials: Sequence[Trial]) -> list[tuple[Column, Cell]]:
    """Every column with what stands in its cells: the published ones, the axes that vary, the rest."""
    return [*_published_fields(model_name(run)), *_axis_fields(trials), *_further_fields(trials)]


def _published_fields(name: str) -> list[tuple[Column, Cell]]:
    return [
        (Column(title="Choice", is_number=False), lambda trial: ""),
        (Column(title="Model", is_number=False), lambda trial: served_model(trial) or name),
        (Column(title="Engine", is_number=False), lambda trial: trial.candidate.engine),
        (Column(title="Quantization", is_number=False), quantization),
        (Column(title="Batch size"), lambda trial: str(trial.candidate.batch_size)),
        (Column(title="Tensor parallel degree"), lambda trial: str(trial.candidate.tensor_parallel_degree)),
        (Column(title="Workers"), lambda trial: str(trial.candidate.workers)),
        *(_metric_field(row) for row in METRICS.values() if row.column == HIGH_PRIORITY),
        (
            Column(title="Data quality", is_number=False),
            lambda trial: trial.quality.verdict if trial.quality is not None else ABSENT,
        ),
    ]


def _axis_fields(trials: Sequence[Trial]) -> list[tuple[Column, Cell]]:
    others = [axis for axis in AXES if axis.name not in _PUBLISHED_AXES]
    varying = [axis for axis in others if len({getattr(t.candidate, axis.name) for t in trials}) > 1]
    options = sorted({name for t in trials for name in t.candidate.options})
    options = [name for name in options if len({t.candidate.options.get(name) for t in trials}) > 1]
    fields: list[tuple[Column, Cell]] = []
    for axis in varying:
        column = Column(title=axis.title[:1].upper() + axis.title[1:], priority=1)
        fields.append((column, _axis(axis.name)))
    for name in options:
        column = Column(title=name, priority=1, is_number=False)
        fields.append((column, _axis(f"options.{name}")))
    return fields


def _axis(name: str) -> Cell:
    return lambda trial: axis_cell(trial.candidate, name)


def _further_fields(trials: Sequence[Trial]) -> list[tuple[Column, Cell]]:
    measured = [row for row in METRICS.values() if row.column and any(adds_detail(trial, row) for trial in trials)]
    return [
        *(_metric_field(row) for row in measured),
        (Column(title="n", priority=3), lambda trial: _count_cell(metric_of(trial, "latency_p50_ms"))),
        (Column(title="P50 interval (ms)", priority=6), lambda t: interval_cell(metric_of(t, "latency_p50_ms"))),
        (Column(title="P99 interval (ms)", priority=8), lambda t: interval_cell(metric_of(t, "latency_p99_ms"))),
        (Column(title="Trial", priority=7, is_number=False), lambda trial: trial.trial_id),
    ]


def _metric_field(row: MetricDef) -> tuple[Column, Cell]:
    column = Column(title=row.heading, priority=row.column or HIGH_PRIORITY, metric=row.name)
    return column, lambda trial: metric_text(metric_of(trial, row.name))


def _row(trial: Trial, mark: Mark, fields: Sequence[tuple[Column, Cell]]) -> Row:
    return Row(trial=trial, mark=mark, cells=(mark, *(cell(trial) for _, cell in fields[1:])))


def axis_cell(candidate: Candidate, name: str) -> str:
    """An axis value as the scenario writes it: 'auto' where the engine decides, a dash where it has no such axis."""
    axes = candidate.axes()
    if name not in axes:
        return ABSENT
    return value_word(axes[name])


def _count_cell(metric: Metric | None) -> str:
    return str(metric.n) if metric is not None else ABSENT


def _marks(trials: Sequence[Trial], recommendation: Recommendation | None) -> dict[str, Mark]:
    """Trial id -> its mark."""
    best, tied = "", set[str]()
    if recommendation is not None:
        best = recommendation.trial.candidate.candidate_id
        tied = {loss.candidate.candidate_id for loss in recommendation.losses if loss.kind == "tie"}
    return {trial.trial_id: _mark(trial, best, tied) for trial in trials}


def _mark(trial: Trial, best: str, tied: set[str]) -> Mark:
    if trial.race is not None:
        return "probed" if trial.race.is_probe else "ended early"
    if trial.violations:
        return "broke constraint"
    if trial.unranked:
        return "not ranked"
    candidate_id = trial.candidate.candidate_id
    return "best" if candidate_id == best else "tie" if candidate_id in tied else ""


def _sort_by(run: Run, sort: str | None) -> Objective:
    if sort is None:
        return run_goals(run).objectives[0]
    row = metric_row(sort)
    if row is None:
        raise UsageError(f"--sort {sort}: not a metric; one of: {', '.join(METRICS)}")
    return Objective(metric=sort, is_minimized=row.better == "minimize")


def _sorted(trials: Sequence[Trial], by: Objective) -> list[Trial]:
    return sorted(trials, key=lambda trial: (not trial.is_feasible, by.cost(metric_of(trial, by.metric))))


def _notes(run: Run, trials: Sequence[Trial], recommendation: Recommendation | None) -> tuple[str, ...]:
    notes = list(run.notes)
    if is_unfinished(run):
        notes.append(
            f"the search has not ended: it still runs or was interrupted after {len(run.trials)} trials; the same "
            "dyno tune command continues it."
        )
    tails = [metric_of(t, "latency_p99_ms") for t in trials]
    few = [m for m in tails if m is not None and m.high is None and m.method != "race"]
    if few:
        notes.append(
            f"'>= x (n=...)': so few requests prove only a lower bound (95 %); 368 independent ones bound a P99 above. "
            f"P99 seen there: {', '.join(number(m.value) for m in few[:6])}{' ...' if len(few) > 6 else ''} ms."
        )
    middles = [metric_of(t, name) for t in trials for name in ("latency_p50_ms", "latency_p90_ms")]
    if any(metric is not None and metric.is_unproven for metric in middles):
        notes.append("'x (n=...)': so few requests bound it on neither side; it is what was seen, no percentile.")
    notes.extend(_race_notes(trials))
    ids = [t.candidate.candidate_id for t in trials]
    if len(set(ids)) < len(ids):
        notes.append("Repetitions of one candidate are listed row by row; the choice pools them.")
    notes.extend(_machine_notes(run))
    for trial in trials:
        for violation in trial.violations:
            notes.append(f"{trial.trial_id} broke a constraint: {violation}")
    notes.extend(_chat_notes(trials))
    notes.extend(_doubt_notes(trials))
    notes.extend(limit_notes(trials))
    notes.extend(cache_notes(trials))
    missing = {names: why for t in trials if t.summary is not None for names, why in t.summary.unavailable.items()}
    notes.extend(f"{names}: unavailable: {why}" for names, why in missing.items())
    if recommendation is not None and recommendation.is_tie:
        within = f"within {100 * TIE_FRAC:.0f} % of its best value"
        notes.append(f"tie: the 95 % intervals overlap; the cheapest {within} is marked best.")
    return tuple(notes)


def _race_notes(trials: Sequence[Trial]) -> Iterator[str]:
    """What ended early, what is shown of it, and how much launches were taken to differ by."""
    races = {trial.trial_id: trial.race for trial in trials if trial.race is not None}
    if not races:
        return
    shown = "of their objective a bound is shown, '>= x' or '<= x'"
    probed = [name for name, race in races.items() if race.is_probe]
    if sure := [name for name in races if name not in probed]:
        yield (
            f"ended early, since they surely lose: {_several(sure)}; {shown} (an error of 5 % for all of them "
            "together), and nothing that needs the whole load."
        )
    if probed:
        yield (
            f"probed alone, since their first requests do not promise: {_several(probed)}; {shown} (an error of "
            f"{100 * races[probed[0]].level:.2g} % for each), which ranks and recommends none of them."
        )
    for why in dict.fromkeys(race.margin_why for race in races.values() if race.margin_why):
        yield f"races allowed for what launches differ by: {why}."


def _machine_notes(run: Run) -> Iterator[str]:
    """Which trial ran where, if there were several machines, and which of them are not ranked."""
    numbers: dict[str, list[str]] = {}
    for trial in run.trials:
        if trial.machine:
            numbers.setdefault(trial.machine, []).append(str(trial.number))
    if len(numbers) > 1:
        where = "; ".join(f"{name}: trials {', '.join(each)}" for name, each in numbers.items())
        yield f"measured on {len(numbers)} machines of one class, each trial on one. {where}."
    for machine in run.manifest.machines:
        if machine.ranked != "ranked" and machine.machine_id in numbers:
            yield f"not ranked: the trials of machine {machine.machine_id}, since {machine.why}."


def _chat_notes(trials: Sequence[Trial]) -> Iterator[str]:
    """Who applied the chat template to the prompts of which engines."""
    found: dict[ChatFacts, dict[str, None]] = {}
    for trial in trials:
        if trial.chat is not None:
            found.setdefault(trial.chat, {}).setdefault(trial.candidate.engine)
    for facts, engines in found.items():
        yield f"chat ({', '.join(engines)}): {chat_text(facts)}"


def _doubt_notes(trials: Sequence[Trial]) -> Iterator[str]:
    """One note per kind of doubt, with an example."""
    kinds: dict[DoubtKind, list[tuple[str, str]]] = {}
    for trial in trials:
        for doubt in trial.doubts:
            kinds.setdefault(doubt.kind, []).append((doubt.sentence, trial.trial_id))
    for found in kinds.values():
        sentences, names = (tuple(dict.fromkeys(column)) for column in zip(*found, strict=True))
        yield f"in doubt ({_several(names)}): {'for instance: ' if len(sentences) > 1 else ''}{sentences[0]}"


def _several(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
