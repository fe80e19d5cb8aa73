"""`dyno tune`: search a scenario's space on real engines, and end in a measured serving.properties."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from harness.errors import Interrupted, MeasurementInvalid, NothingToWrite

if TYPE_CHECKING:
    from harness.cli.progress import Display
    from harness.load.hosts.coordinator import LoadHosts
    from harness.properties.write import Written
    from harness.records import Recommendation, Trial
    from harness.scenario.resolve import ResolvedScenario
    from harness.space.candidates import SpacePlan
    from harness.store.reader import Run
    from harness.store.writer import RunWriter
    from harness.trial.run import TrialRunner
    from harness.trial.verify import Verification
    from harness.tune.loop import SearchResult

MOST_LOSSES = 5
"""Candidates that lost, in the answer at the end of a search; `dyno report` has all of them."""
PIPED_WIDTH = 160
"""Columns of the table where stdout is no terminal: wide enough for the published table and the intervals."""
FIRST_SHOWN = 6
"""Candidates that --dry-run lists in order; beyond the blocks' defaults the order depends on what is measured."""


@click.command(
    "tune",
    epilog="Exit codes: 0 ok, 2 usage or scenario, 3 machine, 4 nothing feasible or not reproduced when verified, "
    "130 interrupted (the same command resumes).",
)
@click.argument("scenario", type=click.Path(path_type=Path), metavar="SCENARIO")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field: search.trials=30.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
@click.option("--dry-run", is_flag=True, help="Print candidates, what is ruled out and why, order, minutes, disk.")
@click.option("--new", "is_new", is_flag=True, help="Begin a new run even if an unfinished one could be resumed.")
@click.option(
    "--locust-web-ui",
    "ui_port",
    type=click.IntRange(0, 65535),
    is_flag=False,
    flag_value=8089,
    metavar="[PORT]",
    help="Show the live load in Locust's web UI on 127.0.0.1 (default 8089, 0: any), read-only; it takes some CPU.",
)
@click.option(
    "--expect-workers",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Load from N hosts that run `dyno load-worker`; wait for them first.",
)
@click.option("--bind", metavar="HOST:PORT", help="Where they find this one (default 127.0.0.1:5557).")
@click.option(
    "--workers-timeout",
    type=click.FloatRange(min=1),
    default=60.0,
    metavar="SECONDS",
    help="... and how long to wait (60).",
)
@click.option("--no-verify", is_flag=True, help="Do not measure again from the written serving.properties.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
def command(
    scenario: Path,
    overrides: tuple[str, ...],
    results: Path | None,
    dry_run: bool,
    is_new: bool,
    ui_port: int | None,
    expect_workers: int | None,
    bind: str | None,
    workers_timeout: float,
    no_verify: bool,
    as_json: bool,
) -> int:
    """Search a scenario's space on real engines and recommend a measured configuration.

    Each candidate is launched, its answers are checked, it is loaded, measured and stopped. The best ones are measured
    again, the recommendation is written, and a server started from the written file is measured once more. Interrupt
    it at any moment: the same command goes on where it stopped.

    \b
    Examples:
      dyno tune scenarios/quickstart.yaml
      dyno tune scenarios/flan-t5-xxl-g5.yaml --dry-run
      dyno tune scenarios/quickstart.yaml --set search.trials=30 --set search.max_minutes=20
      dyno tune scenarios/smoke/fake-open-loop.yaml --locust-web-ui
    """
    from harness.cli.load_options import load_hosts
    from harness.cost.spending import end_rentals
    from harness.space.candidates import require_candidates
    from harness.store.layout import DEFAULT_RESULTS
    from harness.trial.inputs import with_checked_code

    resolved, plan = _planned(scenario, overrides)
    if dry_run:
        return _print_plan(resolved, plan, as_json)
    require_candidates(plan, resolved)
    try:
        return _Tuning(
            resolved=with_checked_code(resolved),
            plan=plan,
            results=results or DEFAULT_RESULTS,
            is_new=is_new,
            verifies=not no_verify,
            ui_port=ui_port,
            hosts=load_hosts(resolved, expect_workers, bind, workers_timeout),
            as_json=as_json,
        ).run()
    finally:
        end_rentals()


def _planned(scenario: Path, overrides: tuple[str, ...]) -> tuple[ResolvedScenario, SpacePlan]:
    """The scenario, checked without running anything of it, and its space."""
    from engines.launching import why_stale
    from harness.cost.price import require_prices
    from harness.scenario.load import load_scenario
    from harness.scenario.resolve import resolve
    from harness.space.candidates import plan_space
    from harness.space.capabilities import engine_capabilities, usable_cores
    from harness.space.check_files import check_files

    resolved = resolve(load_scenario(scenario, overrides), scenario)
    check_files(resolved)
    require_prices(resolved.scenario, str(scenario))
    return resolved, plan_space(resolved, engine_capabilities, usable_cores(), why_stale)


def _print_plan(resolved: ResolvedScenario, plan: SpacePlan, as_json: bool) -> int:
    from harness.space.plan_text import plan_dict, plan_lines
    from harness.tune.sampler import first_candidates

    order = first_candidates(plan, resolved.scenario, FIRST_SHOWN)
    if as_json:
        click.echo(json.dumps(plan_dict(resolved, plan, order), indent=2))
    else:
        click.echo("\n".join(plan_lines(resolved, plan, order)))
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tuning:
    """One start of `dyno tune`."""

    resolved: ResolvedScenario
    plan: SpacePlan
    results: Path
    is_new: bool
    verifies: bool
    ui_port: int | None
    hosts: LoadHosts | None
    as_json: bool

    def run(self) -> int:
        """Search, print, recommend, verify; the exit code."""
        from harness.cli.load_options import shown_load
        from harness.clock import SystemClock

        clock = SystemClock()
        start_ns = clock.now_ns()
        inputs = self._inputs()
        with shown_load(self.ui_port) as web_ui, self.hosts or nullcontext() as hosts:
            return self._tune(replace(inputs, web_ui=web_ui, hosts=hosts), clock, start_ns)

    def _tune(self, inputs: Any, clock: Any, start_ns: int) -> int:
        from harness.cli.progress import open_display
        from harness.tune.run_folder import finish_run, open_run

        writer, done = open_run(self.resolved, self.results, self.is_new)
        with writer, stopped_by_signals():
            with open_display(self.resolved.scenario) as display:
                self._announce(display, writer, done)
                try:
                    runner = self._runner(inputs, writer, display, clock)
                    result = self._search(runner, writer, display, done, (clock, start_ns))
                except (KeyboardInterrupt, Interrupted):
                    return self._interrupted(writer)
            if result.stop == "interrupted":
                return self._interrupted(writer)
            finish_run(writer.layout.root, result)
            return self._conclude(writer, runner, result)

    def _inputs(self) -> Any:
        """Prompts and model, checked before a run folder exists, so that bad input leaves nothing behind."""
        from engines.cache_folder import cache_root
        from engines.models.folder import resolve_model
        from harness.load.schedule.prompts import read_prompts
        from harness.trial.inputs import own_locustfile
        from harness.trial.run import TrialInputs

        model, scenario = self.resolved.model, self.resolved.scenario
        prompts = read_prompts(self.resolved.prompts_path)
        is_needed = any(block.engine != "fake" for block in scenario.space)
        folder = resolve_model(model.kind, model.value, model.seed, cache_root()) if is_needed else Path(model.value)
        return TrialInputs(
            scenario=scenario,
            model_dir=folder,
            prompts=prompts,
            trace_path=self.resolved.trace_path,
            locustfile=own_locustfile(self.resolved),
        )

    def _announce(self, display: Display, writer: RunWriter, done: tuple[Trial, ...]) -> None:
        display.note(f"{'resuming' if done else 'run'} {writer.layout.root}")
        if done:
            display.note(f"{len(done)} trials are there; --new would begin again")
        gone = sum(each.count for each in self.plan.pruned)
        if gone:
            display.note(f"{self.plan.size} candidates, {gone} ruled out:")
        for each in self.plan.pruned:
            display.note(f"  {each.description} ({each.count}): {each.reason}")
        for warning in self.plan.warnings:
            display.note(f"warning: {warning}")

    def _runner(self, inputs: Any, writer: RunWriter, display: Display, clock: Any) -> TrialRunner:
        """A runner that knows the fp32 reference's answers."""
        from harness.trial.reference import reference_answers
        from harness.trial.run import TrialRunner

        runner = TrialRunner(inputs, writer, clock, display.on_phase)
        if not writer.layout.reference_json.exists():
            display.note("asking the fp32 reference")
        reference = reference_answers(self.resolved.scenario, runner, writer.layout.reference_json)
        display.note(f"reference: {reference.source}")
        runner.use_reference(reference.answers)
        return runner

    def _search(
        self, runner: TrialRunner, writer: RunWriter, display: Display, done: tuple[Trial, ...], begun: tuple[Any, int]
    ) -> SearchResult:
        from harness.tune.loop import SearchContext, search
        from harness.units import NS_PER_S

        clock, start_ns = begun
        for trial in done:
            runner.spending.note_stored(trial)
        return search(
            SearchContext(
                scenario=self.resolved.scenario,
                plan=self.plan,
                study_path=writer.layout.study_db,
                run_trial=runner.run,
                record_trial=writer.append_trial,
                why_unaffordable=runner.spending.why_stop,
                clock=clock,
                on_event=display.on_event,
                done=done,
                spent_before_s=(clock.now_ns() - start_ns) / NS_PER_S,
            )
        )

    def _interrupted(self, writer: RunWriter) -> int:
        click.echo(f"interrupted; everything finished is kept in {writer.layout.root}", err=True)
        click.echo("Next: the same command again goes on from there (--new begins again)", err=True)
        return 130

    def _conclude(self, writer: RunWriter, runner: TrialRunner, result: SearchResult) -> int:
        """Table, choice, files, verification, next command."""
        from harness.choose.recommendation import choose
        from harness.choose.text import as_text, findings_text
        from harness.properties.write import write_recommendation
        from harness.store.reader import read_run

        run = read_run(writer.layout.root)
        if not self.as_json:
            self._print_table(run)
        self._write_page(run)
        recommendation = choose(run)
        if not self.as_json:
            click.echo(as_text(recommendation, MOST_LOSSES))
        try:
            written = write_recommendation(run, recommendation, self.resolved.scenario.recommend.container)
        except NothingToWrite as error:
            click.echo(f"dyno: {error}", err=True)
            self._print_end(writer, result, recommendation, None, None)
            return 0
        for path in written.paths:
            click.echo(f"wrote {path}", err=True)
        if written.warnings:
            click.echo(findings_text(written.properties_path, written.warnings), err=True)
        try:
            found = self._verify(runner, recommendation, written, result)
        except (KeyboardInterrupt, Interrupted):
            click.echo(
                f"interrupted while verifying; the recommendation is in {written.properties_path.parent}", err=True
            )
            return 130
        if found is not None:
            self._write_page(run)  # again: now it says whether the written file reproduced the numbers
        self._print_end(writer, result, recommendation, written, found)
        return 0 if found is None or found.is_inside else MeasurementInvalid.exit_code

    def _write_page(self, run: Run) -> None:
        from harness.report.content.result_table import report_table
        from harness.report.page.run_page import write_html

        write_html(run, report_table(run), run.layout.report_html)
        click.echo(f"wrote {run.layout.report_html}", err=True)

    def _print_table(self, run: Any) -> None:
        from rich.console import Console

        from harness.report.content.result_table import report_table
        from harness.report.text.table_formats import print_table

        width = None if sys.stdout.isatty() else PIPED_WIDTH
        print_table(report_table(run), Console(width=width))

    def _verify(
        self, runner: TrialRunner, recommendation: Recommendation, written: Written, result: SearchResult
    ) -> Verification | None:
        """Only our own server can be started from the file here; another container's file is written unverified."""
        if not self.verifies or not written.container.startswith("dynamometer-"):
            return None
        from harness.store.codec import to_json
        from harness.store.disk import write_text
        from harness.trial.verify import measurements, verify_file

        number = max(trial.number for trial in result.trials) + 1
        path = written.properties_path
        promised = measurements(result.trials, recommendation)
        found = verify_file(runner, promised, path, number, lambda text: click.echo(text, err=True))
        stored = {"is_inside": found.is_inside, "sentence": found.sentence, "trial": to_json(found.trial)}
        write_text(path.parent / "verification.json", json.dumps(stored, indent=2) + "\n")
        return found

    def _print_end(
        self,
        writer: RunWriter,
        result: SearchResult,
        recommendation: Recommendation,
        written: Written | None,
        found: Verification | None,
    ) -> None:
        from harness.choose.text import next_command, wrapped
        from harness.store.codec import to_json

        following = f"dyno report {writer.layout.root}"
        if written is not None:
            following = next_command(written.container, written.properties_path.parent)
        if self.as_json:
            answer = {
                "run": str(writer.layout.root),
                "stop": result.stop,
                "stop_reason": result.stop_reason,
                "recommendation": to_json(recommendation),
                "files": [str(path) for path in written.paths] if written else [],
                "verification": None
                if found is None
                else {"is_inside": found.is_inside, "sentence": found.sentence, "trial": to_json(found.trial)},
                "next": following,
            }
            click.echo(json.dumps(answer, indent=2))
            return
        click.echo(wrapped("Stopped: ", result.stop_reason))
        if found is not None:
            click.echo(wrapped("Verification: ", found.sentence))
        click.echo(f"Run: {writer.layout.root}")
        click.echo(f"Next: {following}")


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP (the terminal closed; not where nohup had it ignored) becomes
    KeyboardInterrupt; later ones only say that the stop is under way, so that a second Ctrl-C cannot cut short the
    ending of the engine's processes."""
    seen: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if seen:
            print("already stopping; the engine is being ended", file=sys.stderr)
            return
        seen.append(number)
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
