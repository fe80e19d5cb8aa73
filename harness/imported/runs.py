"""Imported results as run folders: our metrics of their requests, their own numbers beside, and what is not known."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engines.registry import ATTACHED_ENGINE
from harness.errors import UsageError
from harness.imported.result import AskedLoad, Result, most_outstanding
from harness.measure.doubts import measured
from harness.measure.machine.sampler import ResourceUse
from harness.measure.summarize import summarize
from harness.records import Candidate, Doubt, RequestRecord, Trial, TrialSummary
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.scenario.schema import Scenario
from harness.store.formats import Imported, RunManifest
from harness.store.writer import RunWriter
from harness.units import NS_PER_S

_NOT_OURS = ("load_s", "cpu_frac_client", "cpu_frac_other", "cpu_frac_engine", "peak_memory_mib")
"""What only the process that drove the load could measure."""
_MACHINE = "engine start, memory, CPU, GPU, energy"


def write_runs(results: Sequence[Result], folder: Path) -> list[Path]:
    """One run folder for all results of one tool, model and load (each a trial), in order; returns the folders.

    Raises UsageError where a result's load is none that a scenario can state, EnvironmentFault when the disk refuses.
    """
    groups: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        load = _load_of(result)
        key = (result.tool, result.version, result.model, load, result.is_streamed)
        groups.setdefault(key, []).append(result)
    return [_write(group, folder) for group in groups.values()]


def _write(group: Sequence[Result], folder: Path) -> Path:
    first = group[0]
    resolved = _resolved(group)
    candidate = Candidate(block=0, engine=ATTACHED_ENGINE, options=_options(first))
    with RunWriter.create(folder, _manifest(group, resolved)) as writer:
        for number, result in enumerate(group, 1):
            trial = _trial(result, number, candidate)
            if result.requests:
                writer.write_requests(trial.trial_id, result.requests)
            writer.append_trial(trial)
        return writer.layout.root


def _options(result: Result) -> Mapping[str, str]:
    return {"measured_by": result.tool, **({"model_name": result.model} if result.model else {})}


def _trial(result: Result, number: int, candidate: Candidate) -> Trial:
    return Trial(
        trial_id=f"t{number:04d}-{candidate.candidate_id}",
        number=number,
        candidate=candidate,
        outcome="ok",
        started_utc=result.started_utc,
        notes=(f"imported from {', '.join(path.name for path in result.files)}",),
        summary=summary_of(result),
        served_model=result.model,
        reported=result.reported,
    )


def summary_of(result: Result) -> TrialSummary:
    """Our metrics of the result's requests, with its doubts; none where it kept no requests."""
    unavailable = {_MACHINE: f"{result.tool} does not record them", **result.unavailable}
    chosen = measured(result.requests)
    if not chosen:
        return TrialSummary(metrics={}, unavailable=unavailable).doubted([_doubt(result)])
    begin_ns = min(record.intended_ns for record in chosen)
    end_ns = max(record.done_ns for record in chosen)
    load = _load_of(result)
    made = summarize(
        result.requests, begin_ns, end_ns, _nobody_looked(begin_ns, end_ns),
        load_s=0.0, asked_rps=load.amount if load.is_open_loop else None, is_open_loop=load.is_open_loop,
    )  # fmt: skip
    metrics = {name: metric for name, metric in made.metrics.items() if name not in _NOT_OURS}
    if load.is_open_loop and all(record.sent_ns == record.intended_ns for record in chosen):
        unavailable["lag, delivered rate"] = f"{result.tool} does not record when a request was to be sent"
        metrics = {name: metric for name, metric in metrics.items() if not name.startswith(("lag_", "rate_delivered"))}
    for prefix, title in (("ttft_", "ttft"), ("itl_", "itl"), ("tpot_", "tpot")):
        is_missing = not any(name.startswith(prefix) for name in metrics)
        if is_missing and not any(prefix[:-1] in names for names in result.unavailable):
            unavailable[title] = "its files hold no times of tokens" if prefix != "ttft_" else "nothing was streamed"
    return TrialSummary(
        metrics=metrics, distrust=made.distrust, distrust_kinds=made.distrust_kinds, unavailable=unavailable
    ).doubted([_doubt(result)])


def _nobody_looked(begin_ns: int, end_ns: int) -> ResourceUse:
    return ResourceUse(
        window_s=(end_ns - begin_ns) / NS_PER_S, cores=1, engine_s=None, harness_s=0.0, client_s=0.0, other_s=0.0,
        peak_memory_bytes=None, memory_kind="PSS", samples=0,
    )  # fmt: skip


def _doubt(result: Result) -> Doubt:
    unknown = ["whether its client kept up", "what else ran on the machines", *result.unknown]
    if result.requests and not _load_of(result).is_recorded:
        unknown.append("the load that was asked for (the requests outstanding at a time stand in for users)")
    return Doubt(kind="imported", sentence=f"measured by {_by(result)}, so it is not known: {'; '.join(unknown)}")


def _by(result: Result) -> str:
    return f"{result.tool} {result.version}".strip()


def _load_of(result: Result) -> AskedLoad:
    """The recorded load; else as many users as requests were outstanding at a time."""
    if result.load is not None:
        return result.load
    return AskedLoad(kind="closed", amount=most_outstanding(result.requests), is_recorded=False)


def _resolved(group: Sequence[Result]) -> ResolvedScenario:
    """A scenario that states what is known of the load; nothing was launched, so nothing was searched."""
    first, load = group[0], _load_of(group[0])
    warm = max(sum(record.is_warmup for record in result.requests) for result in group)
    counts = [len(measured(result.requests)) for result in group]
    fields: dict[str, Any] = {
        "name": _name(first),
        "description": f"Imported: measured by {_by(first)}, not by dyno.",
        "workload": {
            "stream": first.is_streamed, "load": load.in_scenario(), "warmup_requests": warm,
            "requests": max([*counts, 1]), "max_duration_s": max(1.0, *(_seconds(each.requests) for each in group)),
            "engine_metrics": False,
        },
        "space": [{"engine": ATTACHED_ENGINE, "options": dict(_options(first))}],
        "constraints": {"quality": "any"},
    }  # fmt: skip
    try:
        return resolve(Scenario.model_validate(fields), first.files[0])
    except ValidationError as error:  # a rate or a number of users that no scenario may ask for
        why = error.errors(include_url=False)[0]["msg"]
        raise UsageError(f"{first.files[0]}: its load cannot be stated in a scenario ({why}); leave it out") from error


def _seconds(records: Sequence[RequestRecord]) -> float:
    return max((record.done_ns for record in records), default=0) / NS_PER_S


def _name(result: Result) -> str:
    tool = re.sub(r"[^a-z0-9]+", "-", result.tool.lower()).strip("-")
    model = re.sub(r"[^a-z0-9]+", "-", Path(result.model).name.lower()).strip("-")
    return "-".join(part for part in ("imported", tool, model[:60].strip("-")) if part)


def _manifest(group: Sequence[Result], resolved: ResolvedScenario) -> RunManifest:
    first = group[0]
    try:
        dyno_version = version("dynamometer")
    except PackageNotFoundError:
        dyno_version = ""
    files = {file.name: _sha256(file) for result in group for file in result.files}
    return RunManifest(
        scenario=resolved.as_dict(),
        digest=resolved.digest,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        dyno_version=dyno_version,
        command=tuple(sys.argv),
        imported=Imported(tool=first.tool, version=first.version, model=first.model, files=files),
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
