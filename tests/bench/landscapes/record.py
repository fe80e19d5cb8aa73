"""Record a landscape: every candidate of a scenario launched and loaded twice, with all requests, into one file.

    python -m tests.bench.landscapes.record scenarios/landscapes/llamacpp.yaml \
        --out results/published/landscapes/llamacpp --minutes 45

Each trial is one of `dyno tune`, by the same parts: launched, judged once per numeric path, loaded with the same seeded
requests, stored in a run folder below results/local/landscapes. Stopped at any moment (kill -9 too), the same command
continues with the next trial. When all are there --out gets landscape.parquet and table.md, when only the minutes are
over the table alone; exit code 4 then.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engines.errors import EngineError
from engines.launching import why_stale
from harness.choose.goals import goals_of
from harness.cli.signals import stopped_by_signals
from harness.errors import DynoError, EnvironmentFault, Interrupted, UsageError
from harness.measure.metrics import metric_of
from harness.quality.inheritance import judged_before
from harness.records import NOT_MEASURED, Trial
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import SpacePlan, plan_space, require_candidates
from harness.space.capabilities import capabilities_for, model_kind_of, usable_cores
from harness.space.check_files import checked_scenario
from harness.space.context import most_tokens
from harness.store.disk import write_text
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import read_run
from harness.store.run_folder import finish_run, open_run
from harness.trial.bench import Bench
from harness.trial.progress import Phase
from harness.units import format_duration
from tests.bench.landscapes.landscape import FILE, Landscape, launch_of, write
from tests.bench.landscapes.order import Planned, order_of
from tests.bench.landscapes.table import TABLE, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Progress of a trial as lines on stderr; of its phases nothing: a trial is short."""

    def on_phase(self, phase: Phase) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """One line that stays."""
        print(text, file=sys.stderr, flush=True)


def record(resolved: ResolvedScenario, out: Path, minutes: float, results: Path) -> bool:
    """Whether the landscape in `out` is whole; until it is, its table alone is there. Raises DynoError (on Ctrl-C
    Interrupted) and EngineError."""
    if (out / FILE).exists():
        raise UsageError(f"{out / FILE} is there already: expected a new folder; name another --out, or remove it")
    until_s = time.monotonic() + 60 * minutes
    plan = _plan(resolved)
    trials = order_of(plan.candidates, resolved.scenario.search.seed)
    progress = Notes()
    with Bench.open(resolved, partial(open_run, resolved, results, False, progress.note), progress=progress) as bench:
        left = _left(bench, trials)
        progress.note(f"{plan.size} candidates, {len(trials)} trials, {len(left)} to do")
        _run(bench, plan, left, until_s)
        found = landscape(bench.writer.layout.root, plan, trials)
        write_text(out / TABLE, table(found))
        print(out / TABLE)
        if len(found.launches) < len(trials):
            return False
        print(write(out, found))
        finish_run(bench.writer.layout.root, "exhausted", "recorded as a landscape")
    return True


def _plan(resolved: ResolvedScenario) -> SpacePlan:
    """All that can be launched here. Raises ScenarioError where that is nothing."""
    kind = model_kind_of(resolved)
    tokens = most_tokens(resolved, kind)
    plan = plan_space(resolved, capabilities_for(resolved), usable_cores(), why_stale, kind, tokens)
    for gone in plan.pruned:
        print(f"ruled out: {gone.description} ({gone.count}): {gone.reason}", file=sys.stderr)
    require_candidates(plan, resolved)
    return plan


def _left(bench: Bench, trials: Sequence[Planned]) -> list[Planned]:
    """The trials that are not stored yet. Raises EnvironmentFault where other candidates are possible than before."""
    stored = {trial.number: trial for trial in bench.stored if trial.outcome not in NOT_MEASURED}
    for each in trials:
        if each.number in stored and stored[each.number].candidate != each.candidate:
            raise EnvironmentFault(
                f"{bench.writer.layout.root}: trial {each.number} was of another candidate: the space is not what it "
                "was when this recording began (an engine came or went); put it back, or remove this folder"
            )
    return [each for each in trials if each.number not in stored]


def _run(bench: Bench, plan: SpacePlan, left: Sequence[Planned], until_s: float) -> None:
    """Run these trials, in order, while the next should end before `until_s`."""
    declared = {block.block: block.changes_answers for block in plan.blocks}
    stored, lasted_s = list(bench.stored), list[float]()
    for place, each in enumerate(left):
        begin_s = time.monotonic()
        if begin_s + max(lasted_s, default=0.0) > until_s:
            print(f"the minutes are over: {len(left) - place} trials are left", file=sys.stderr)
            return
        judged = judged_before(each.candidate, stored, declared[each.candidate.block])
        trial = bench.run(each.candidate, each.number, judged=judged)
        bench.writer.append_trial(trial)
        stored.append(trial)
        lasted_s.append(time.monotonic() - begin_s)
        rest = len(left) - place - 1
        print(_line(bench, each, trial, lasted_s, rest), file=sys.stderr, flush=True)


def _line(bench: Bench, each: Planned, trial: Trial, lasted_s: Sequence[float], rest: int) -> str:
    name = goals_of(bench.inputs.scenario).objectives[0].metric
    found, others = metric_of(trial, name), metric_of(trial, "cpu_frac_other")
    value = f"{found.value:.4g} {found.unit}" if found is not None else trial.reason
    parts = ", ".join(f"{phase} {spent_s:.1f}" for phase, spent_s in trial.phase_s.items())
    crowd = f", others {others.value:.0%} of the CPU" if others is not None else ""
    varying = ", ".join(f"{axis.removeprefix('options.')} {value}" for axis, value in _varying(bench, trial))
    return (
        f"{each.number} ({f'pass {each.in_pass}' if each.in_pass else 'anchor'}) {trial.candidate.engine} {varying}: "
        f"{trial.outcome}, {value}; {lasted_s[-1]:.1f} s ({parts}){crowd}; {rest} left, "
        f"{format_duration(rest * statistics.fmean(lasted_s))}"
    )


def _varying(bench: Bench, trial: Trial) -> list[tuple[str, object]]:
    """The axes along which its block varies, with the trial's values."""
    block = bench.inputs.scenario.space[trial.candidate.block]
    varying = {axis for axis, values in block.axes().items() if len(values) > 1}
    return [(axis, value) for axis, value in trial.candidate.axes().items() if axis in varying]


def landscape(root: Path, plan: SpacePlan, trials: Sequence[Planned]) -> Landscape:
    """What the run folder in `root` holds by now."""
    run = read_run(root)
    by_number = {trial.number: trial for trial in run.trials if trial.outcome not in NOT_MEASURED}
    launches, warm = [], set[tuple[str, str]]()
    for each in trials:
        if (trial := by_number.get(each.number)) is None:
            continue
        kind = trial.candidate.engine, trial.candidate.dtype
        launches.append(launch_of(trial, each.in_pass, kind not in warm, run.layout.requests(trial.trial_id)))
        warm.add(kind)
    return Landscape(
        scenario=run.resolved.scenario,
        plan=plan,
        machine=run.manifest.machine,
        commit=run.manifest.git,
        planned=len(trials),
        launches=tuple(launches),
    )


def main() -> int:
    """Record what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the landscape")
    parser.add_argument("--minutes", type=float, default=110.0, help="begin no trial that may end later (110)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--results", type=Path, default=DEFAULT_RESULTS / "landscapes", help="folder of the raw runs")
    given = parser.parse_args()
    try:
        with stopped_by_signals():
            resolved = checked_scenario(given.scenario, tuple(given.overrides))
            return 0 if record(resolved, given.out, given.minutes, given.results) else 4
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"{error or 'interrupted'}; the same command again continues with the next trial", file=sys.stderr)
        return Interrupted.exit_code
    except (DynoError, EngineError) as error:
        print(f"landscape: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, DynoError) else 3


if __name__ == "__main__":
    sys.exit(main())
