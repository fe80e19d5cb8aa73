"""`dyno tune`: searches a scenario's space on real engines, and ends in a measured serving.properties."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import psutil

from engines.launching import why_stale
from harness.cli.load_options import load_hosts
from harness.cli.progress import Display, open_display
from harness.cli.signals import stopped_by_signals
from harness.cli.tune_answer import answer
from harness.cli.tune_earlier import EarlierRuns, spread_texts
from harness.cli.tune_places import (
    Elsewhere,
    check_goes_elsewhere,
    described_machine,
    elsewhere,
    facts_there,
    split_option,
)
from harness.cost.price import require_prices
from harness.cost.spending import end_rentals
from harness.errors import Interrupted
from harness.load.hosts.coordinator import LoadHosts
from harness.load.web_ui.launch import WebUi
from harness.measure.machine.machine_class import this_machine
from harness.places.open_cluster import ADDRESS_HELP
from harness.records import Candidate
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import GpuRoom, SpacePlan, plan_space, require_candidates
from harness.space.capabilities import capabilities_for, model_kind_of, usable_cores
from harness.space.check_files import checked_scenario
from harness.space.check_model import check_model
from harness.space.check_options import unchecked_options
from harness.space.context import most_tokens
from harness.space.least_memory import without_too_large
from harness.space.machine_file import DescribedMachine, capabilities_there
from harness.space.plan_text import Races, facts_of, plan_dict, plan_lines
from harness.store.layout import DEFAULT_RESULTS
from harness.store.run_folder import finish_run, open_run
from harness.trial.bench import Bench, interrupted
from harness.trial.inputs import with_checked_code
from harness.tune.places import Here, Places
from harness.tune.search_records import SearchContext, SearchResult
from harness.tune.spreads import Earlier
from harness.tune.unequal_memory import PlanFor
from harness.units import BYTES_PER_MIB

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
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan (candidates, what is ruled out and why, order, minutes, disk) and launch nothing.",
)
@click.option(
    "--warm-start",
    "earlier",
    multiple=True,
    metavar="RUN",
    help="Begin with what this earlier run suggests (repeatable); it orders the first trials and removes none.",
)
@click.option(
    "--no-prune",
    is_flag=True,
    help="Also launch what earlier launches show to fail or to need more memory than there is.",
)
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
@click.option("--bind", metavar="HOST:PORT", help="Address that load workers connect to (default 127.0.0.1:5557).")
@click.option(
    "--workers-timeout",
    type=click.FloatRange(min=1),
    default=60.0,
    metavar="SECONDS",
    help="Seconds to wait for load workers (default 60).",
)
@click.option("--places", "address", metavar="ADDRESS", help=f"{ADDRESS_HELP} Default: here.")
@click.option("--machines", "machine_class", metavar="CLASS", help="With --places: machines of this class only.")
@split_option
@click.option(
    "--machine",
    "machine_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --dry-run: plan for the machine that this YAML file describes.",
)
@click.option("--no-verify", is_flag=True, help="Do not measure again from the written serving.properties.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
def command(
    scenario: Path,
    overrides: tuple[str, ...],
    results: Path | None,
    dry_run: bool,
    earlier: tuple[str, ...],
    no_prune: bool,
    is_new: bool,
    ui_port: int | None,
    expect_workers: int | None,
    bind: str | None,
    workers_timeout: float,
    address: str | None,
    machine_class: str | None,
    split: int,
    machine_path: Path | None,
    no_verify: bool,
    as_json: bool,
) -> int:
    """Search a scenario's space on real engines and recommend a measured configuration.

    Each candidate is launched, its answers are checked, it is loaded and measured. The best are measured again, and a
    server started from the written file once more. Interrupt it at any moment: the same command continues from there.

    \b
    Examples:
      dyno tune scenarios/quickstart.yaml
      dyno tune scenarios/flan-t5-xxl-g5.yaml --dry-run
      dyno tune scenarios/quickstart.yaml --set search.trials=30 --set search.max_minutes=20
      dyno tune scenarios/quickstart.yaml --warm-start latest
      dyno tune scenarios/quickstart.yaml --places ray://10.0.0.5:10001
    """
    resolved = _priced(scenario, overrides)
    others = {"--expect-workers": expect_workers, "--bind": bind, "--locust-web-ui": ui_port}
    check_goes_elsewhere(resolved, address, others=others, is_split=split > 1)
    with elsewhere(address, machine_class, machine_path, split) as there:
        options = _Options(
            results=results,
            dry_run=dry_run,
            earlier=earlier,
            prunes=not no_prune,
            is_new=is_new,
            web_ui=None if ui_port is None else WebUi(ui_port),
            hosts=load_hosts(resolved, expect_workers, bind, workers_timeout),
            verifies=not no_verify,
            as_json=as_json,
            there=there,
            machine=described_machine(machine_path, is_planned=dry_run),
        )
        return _tune(resolved, options)


def _priced(path: Path, overrides: tuple[str, ...]) -> ResolvedScenario:
    """The checked scenario, with a price for all that it asks the cost of. Raises ScenarioError."""
    resolved = checked_scenario(path, overrides)
    require_prices(resolved.scenario, str(path))
    return resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What the command line asks for; `there` are the machines of a cluster, None: this machine measures; `machine` is
    described, and only planned for."""

    results: Path | None
    dry_run: bool
    earlier: tuple[str, ...]
    prunes: bool
    is_new: bool
    web_ui: WebUi | None
    hosts: LoadHosts | None
    verifies: bool
    as_json: bool
    there: Elsewhere | None
    machine: DescribedMachine | None

    @property
    def runs(self) -> EarlierRuns:
        """The earlier runs, of which `earlier` are named."""
        return EarlierRuns(self.results, self.earlier, facts_there(self.there, self.machine))

    @property
    def unraced(self) -> str:
        """The option by which another machine sends the load than the one that serves, or ''."""
        return "--expect-workers" if self.hosts else ""

    def spreads(self, resolved: ResolvedScenario, plan: SpacePlan, before: str = "") -> Earlier:
        """What races need to know of launches, from earlier runs."""
        return {} if self.unraced else self.runs.spreads(resolved, plan, before)

    def spread_texts(self, resolved: ResolvedScenario, plan: SpacePlan, spreads: Earlier) -> tuple[str, ...]:
        """How much launches differ, as far as something is raced."""
        return () if self.unraced else spread_texts(resolved, plan, spreads)


def _tune(resolved: ResolvedScenario, options: _Options) -> int:
    there = options.there
    plan = _plan(resolved, there, options.machine, prunes=options.prunes)
    first = options.runs.first(resolved, plan)
    if options.dry_run:
        check_model(resolved)
        return _print_plan(resolved, plan, first, options)
    require_candidates(plan, resolved)
    resolved = with_checked_code(resolved)
    if there is not None and there.is_unchecked:
        with stopped_by_signals():
            checked = there.checked(resolved, plan.blocks[0].default, partial(click.echo, err=True))
        return _tune(resolved, replace(options, there=checked))
    with stopped_by_signals(), _resumable(), ExitStack() as until_end:
        until_end.callback(end_rentals)
        with open_display(resolved.scenario) as display:
            _announce(resolved, plan, display.note)
            results, machine = options.results or DEFAULT_RESULTS, there.machine if there else None
            run_folder = partial(open_run, resolved, results, options.is_new, display.note, machine)
            opening = Bench.open(resolved, run_folder, progress=display, web_ui=options.web_ui, hosts=options.hosts)
            bench = until_end.enter_context(opening)
            far = there.places(bench, resolved, plan.blocks[0].default, display.note) if there else None
            result = _search(bench, resolved, plan, display, first=first, places=far or _here(bench), options=options)
        run_file = far.run_file if far else None
        return answer(bench, result, verifies=options.verifies, as_json=options.as_json, run_file=run_file)


def _plan(
    resolved: ResolvedScenario, there: Elsewhere | None, machine: DescribedMachine | None, *, prunes: bool
) -> SpacePlan:
    """What can be launched on the machines that measure."""
    kind = model_kind_of(resolved)
    most = most_tokens(resolved, kind)
    if there is not None:
        plan = there.with_most_memory(plan_space(resolved, there.capabilities, there.cores, kind=kind, tokens=most))
        return there.planned(without_too_large(plan, resolved, most) if prunes else plan)
    if machine is not None:
        plan = plan_space(resolved, capabilities_there(machine, resolved), machine.cores, kind=kind, tokens=most)
        plan = machine.planned(plan)
    else:
        plan = plan_space(resolved, capabilities_for(resolved), usable_cores(), why_stale, kind, most)
        plan = replace(plan, gpus=GpuRoom.of(this_machine().facts))
    plan = without_too_large(plan, resolved, most) if prunes else plan
    return replace(plan, warnings=(*plan.warnings, *unchecked_options(resolved)))


def _plan_for(resolved: ResolvedScenario, there: Elsewhere | None, *, prunes: bool) -> PlanFor | None:
    """The plan for a machine of the cluster, by its memory; None without one, or where nothing is ruled out."""
    if there is None or not prunes:
        return None
    return lambda mib: _plan(resolved, replace(there, memories_mib={mib}), None, prunes=True)


def _memory_mib(there: Elsewhere | None) -> float:
    if there is None:
        return psutil.virtual_memory().total / BYTES_PER_MIB
    return there.most_memory_mib


def _here(bench: Bench) -> Places:
    return Here(
        lambda candidate, number, *, judged, order, terms: bench.run(
            candidate, number, judged=judged, order=order, terms=terms, left_s=bench.left_s()
        ),
        this_machine().machine_id,
    )


@contextmanager
def _resumable() -> Iterator[None]:
    """An interruption inside prints how to continue."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{error}\nNext: the same command again continues from there (--new begins again)") from error


def _search(
    bench: Bench,
    resolved: ResolvedScenario,
    plan: SpacePlan,
    display: Display,
    *,
    first: tuple[Candidate, ...],
    places: Places,
    options: _Options,
) -> SearchResult:
    """Raises Interrupted after a Ctrl-C; every finished trial is stored then."""
    from harness.tune.loop import search  # Optuna takes long to import: --help does not wait for it

    spreads = options.spreads(resolved, plan, bench.writer.manifest.created_utc)
    for text in options.spread_texts(resolved, plan, spreads):
        display.note(f"races: {text}")
    result = search(
        SearchContext(
            scenario=bench.inputs.scenario,
            plan=plan,
            study_path=bench.writer.layout.study_db,
            places=places,
            record_trial=bench.writer.append_trial,
            spending=bench.spending,
            clock=bench.clock,
            on_event=display.on_event,
            done=bench.stored,
            spent_before_s=bench.setup_s,
            is_verified=options.verifies,
            first=first,
            earlier=spreads,
            memory_mib=_memory_mib(options.there),
            prunes=options.prunes,
            plan_for=_plan_for(resolved, options.there, prunes=options.prunes),
        )
    )
    if result.stop == "interrupted":
        raise interrupted(bench.writer)
    finish_run(bench.writer.layout.root, result.stop, result.stop_reason)
    return result


def _print_plan(resolved: ResolvedScenario, plan: SpacePlan, first: tuple[Candidate, ...], options: _Options) -> int:
    from harness.tune.sampler import first_candidates

    order = first_candidates(plan, resolved.scenario, FIRST_SHOWN, first)
    spreads = options.spread_texts(resolved, plan, options.spreads(resolved, plan))
    races, forecast = Races(unraced=options.unraced, spreads=spreads), options.runs.forecast(resolved, plan)
    if options.as_json:
        click.echo(json.dumps(plan_dict(resolved, plan, order, races, forecast, options.machine), indent=2))
    else:
        click.echo("\n".join(plan_lines(resolved, plan, order, races, forecast, options.machine)))
    return 0


def _announce(resolved: ResolvedScenario, plan: SpacePlan, note: Callable[[str], None]) -> None:
    trace = facts_of(resolved)
    for line in trace.lines() if trace else ():
        note(line)
    gone = sum(each.count for each in plan.pruned)
    if gone:
        note(f"{plan.size} candidates, {gone} ruled out:")
    for each in plan.pruned:
        note(f"  {each.description} ({each.count}): {each.reason}")
    for warning in plan.warnings:
        note(f"warning: {warning}")
