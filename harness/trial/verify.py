"""Verification of a recommendation: a server started from the written serving.properties, folder or start script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from engines.environments.clean_python import REQUIREMENTS, clean_python
from engines.foreign_servers.djl.served import FolderServer, server_for
from engines.registry import traits
from harness.choose.goals import Goals, goals_of
from harness.measure.geometric_mean import NAME
from harness.measure.levels import at_level, level_in, without_level
from harness.measure.metrics import metric_of, metric_row
from harness.properties.containers import Container, format_version, parse_container, python_version
from harness.properties.render import why_nothing_to_write
from harness.properties.write import Written
from harness.recommendation import Recommendation
from harness.records import Candidate, Trial, next_number
from harness.store.codec import to_json
from harness.store.reader import Run
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from harness.wording import label, unit_suffix

VERIFIED_METRICS = ("latency_p50_ms", "throughput_inputs_per_s")
"""What the second measurement must reproduce; the tail is too noisy at a tuner's sample sizes to be a promise."""

TAIL_PARTS = ("_p9", "_max_")
"""What the name of a tail holds."""

REPRODUCIBLE_FRAC = 0.15
"""Two trials of one configuration differ by more than sampling: the machine drifts between them. A second value
counts as reproduced within this fraction even when both intervals are narrower (differences of 10 to 15 % were seen
between repeated runs of one engine on a shared 2-core machine)."""

_Place = Literal["inside", "better", "worse"]
"""Where a second value lies against the promised range; a better one breaks no promise."""

RunFile = Callable[[Path, Candidate, int], Trial]
"""Runs the trial, of that number, of a server started from a written file that describes the candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The second measurement, and whether it keeps what the first one promised: agrees with it, or is better."""

    trial: Trial
    is_inside: bool
    sentence: str

    def as_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {"is_inside": self.is_inside, "sentence": self.sentence, "trial": to_json(self.trial)}


def why_not_started(candidate: Candidate, container: str) -> str:
    """Why nothing here can be started from what is written of the candidate for that container; '' where it can."""
    engine = traits(candidate.engine)
    if parse_container(container).is_own:
        nothing = "" if engine.has_start_file else why_nothing_to_write(candidate)
        return f"a server is started from the written serving.properties: {nothing}" if nothing else ""
    if engine.is_rented:
        return "an endpoint was measured; `dyno deploy sagemaker RUN` measures it there"
    if engine.container_rolling_batch:
        return (
            f"{container} runs {label(candidate)} as its own rolling batch, which nothing here can start; use "
            "--container dynamometer-0.1"
        )
    return ""


def verify_written(
    bench: Bench,
    promised: Sequence[Trial],
    written: Written,
    number: int,
    progress: Callable[[str], None],
    run_file: RunFile | None = None,
) -> Verification:
    """Measure the server started from what was written against what `promised` recorded: every finished trial of the
    recommended candidate, see `measurements`. `run_file` runs it (None: on this machine). The model folder of a
    container of DJL's is started by what this machine has of DJL Serving, which the sentence names."""
    target, goals = parse_container(written.container), goals_of(bench.inputs.scenario)
    if target.is_own:
        progress(f"starting the server from {written.properties_path}")
        run_file = run_file or bench.run_file
        return _judged(run_file(written.properties_path, promised[0].candidate, number), promised, goals)
    folder = written.properties_path.parent
    candidate = promised[0].candidate
    command = str(candidate.options.get("command", "")) if traits(candidate.engine).has_model_folder else ""
    server = server_for(target.version, candidate.engine, candidate.python, command)
    with _with_its_python(server, target, folder, candidate) as placed:
        progress(f"starting {folder} {placed.sentence}")
        trial = bench.run_folder(placed, target, folder, promised[0], number)
    found = _judged(trial, promised, goals)
    return replace(found, sentence=f"{found.sentence} (started {placed.sentence})")


def _judged(trial: Trial, promised: Sequence[Trial], goals: Goals) -> Verification:
    """Whether `trial` reproduces what was promised."""
    if trial.outcome != "ok":
        return Verification(trial=trial, is_inside=False, sentence=f"not reproduced: {trial.outcome}: {trial.reason}")
    parts = [_compare(name, promised, trial) for name in _compared(promised[0], goals)]
    if trial.violations:
        parts.append(("worse", "it broke a constraint: " + "; ".join(trial.violations)))
    found = {place for place, _ in parts}
    is_inside = "worse" not in found
    verdict = "not reproduced" if not is_inside else "reproduced or better" if "better" in found else "reproduced"
    sentences = [text for _, text in parts] + ([] if found == {"inside"} else _disturbed((*promised, trial)))
    return Verification(trial=trial, is_inside=is_inside, sentence=f"{verdict}: " + "; ".join(sentences))


def _compared(trial: Trial, goals: Goals) -> tuple[str, ...]:
    """The metrics that are compared; of a sweep at the level that was promised, whichever is best this time, and what
    the objectives judge by at other levels or loads, but for tails."""
    own = next((probe for probe in trial.probes if probe.is_own), None)
    metrics = trial.summary.metrics if trial.summary else {}
    mean = (NAME,) if NAME in metrics else ()
    if own is None or not (own.load or "load_level" in metrics):
        return (*VERIFIED_METRICS, *mean)
    names = [at_level(name, own.level) for name in ("latency_p50_ms", "throughput_rps")]
    judged = [name for objective in goals.objectives for name in objective.judged if level_in(name) is not None]
    names += [name for name in judged if not any(part in without_level(name) for part in TAIL_PARTS)]
    return (*dict.fromkeys(names), *mean)


def verify(run: Run, recommendation: Recommendation, written: Written, progress: Callable[[str], None]) -> Verification:
    """Like `verify_written`, for a stored run: the same model, prompts and workload as when it was tuned.

    Raw records go to the run folder under the trial id 'verify-...'. Raises EnvironmentFault when another dyno
    writes the run, and what resolving the model and the prompts raises.
    """
    with Bench.open(run.resolved, partial(RunWriter.resume, run.root), progress=Lines(progress)) as bench:
        promised = measurements(run.trials, recommendation)
        return verify_written(bench, promised, written, next_number(run.trials), progress)


@contextmanager
def _with_its_python(
    server: FolderServer, target: Container, folder: Path, candidate: Candidate
) -> Iterator[FolderServer]:
    """The server with workers in a clean environment of the image's Python, where a worker of DJL Serving's reads a
    requirements.txt of ours and that Python is here; else the sentence states what was not tried. What somebody else's
    handler imports is the image's (torch, some 3 GB), and is taken as it was measured."""
    wanted = format_version(python_version(target))
    if traits(candidate.engine).container_entry_point:
        yield server
        return
    if (server.found is None and server.jar is None) or not (folder / REQUIREMENTS).is_file() or not wanted:
        yield server
        return
    with clean_python(wanted, folder) as made:
        yield replace(server, python=made.program, sentence=f"{server.sentence}; {made.sentence}")


def measurements(trials: Sequence[Trial], recommendation: Recommendation) -> tuple[Trial, ...]:
    """The recommended candidate's finished trials: the first measurement and its repetitions."""
    return tuple(t for t in trials if t.candidate == recommendation.trial.candidate and t.outcome == "ok")


def _compare(name: str, promised: Sequence[Trial], again: Trial) -> tuple[_Place, str]:
    """Is the second value inside the range that the promised measurements span, intervals and drift included?"""
    first = [metric for trial in promised if (metric := metric_of(trial, name)) is not None]
    second = metric_of(again, name)
    if not first:
        return "inside", f"{name} had no value to reproduce"
    if second is None:
        return "worse", f"{name} was not measured this time"
    low = min(min(m.value if m.low is None else m.low, m.value * (1 - REPRODUCIBLE_FRAC)) for m in first)
    high = max(max(m.value if m.high is None else m.high, m.value * (1 + REPRODUCIBLE_FRAC)) for m in first)
    second_low = second.value if second.low is None else second.low
    second_high = second.value if second.high is None else second.high
    place: _Place = "inside"
    if second_low > high or second_high < low:
        row = metric_row(name)
        is_larger_better = row is not None and row.better == "maximize"
        place = "better" if (second.value > high) == is_larger_better else "worse"
    word = {"inside": "inside", "better": "better than", "worse": "outside"}[place]
    if place == "inside" and not low <= second.value <= high:
        word = f"its interval [{second_low:.4g}, {second_high:.4g}] meets"
    return place, f"{name} {second.value:.4g}{unit_suffix(second.unit)}, {word} [{low:.4g}, {high:.4g}]"


def _disturbed(trials: Sequence[Trial]) -> list[str]:
    """What may have come between the two measurements, and what to do; empty when nothing was seen."""
    seen = [doubt.sentence for trial in trials for doubt in trial.doubts if doubt.only_makes_worse]
    return [f"{seen[-1]}: quiet the machine and run `dyno recommend --verify`"] if seen else []
