"""`dyno machines`: which machines a cluster has for the trials of a search, and whether they are free."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.table import Table

from harness.cli.terminal import table_console
from harness.cli.tune_places import check_goes_elsewhere, split_option
from harness.errors import EnvironmentFault, UsageError
from harness.measure.machine.machine_class import deciding
from harness.places.cluster import short
from harness.places.open_cluster import ADDRESS_HELP, open_cluster
from harness.places.prepare import prepare
from harness.places.survey import Found, survey
from harness.scenario.resolve import ResolvedScenario
from harness.space.check_files import checked_scenario
from harness.store.codec import to_json
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import LastCalibration, last_calibrations
from harness.trial.inputs import with_checked_code


@click.command(name="machines", short_help="Show the machines of a cluster that can take trials.")
@click.option("--places", "address", required=True, metavar="ADDRESS", help=ADDRESS_HELP)
@split_option
@click.option(
    "--prepare",
    "scenario",
    type=click.Path(path_type=Path),
    metavar="SCENARIO",
    help="Bring this dynamometer, engine environments, weights and prompts to every machine; safe to interrupt.",
)
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every fact.")
def command(address: str, split: int, scenario: Path | None, results: Path | None, as_json: bool) -> int:
    """Show the machines of a cluster that can take trials: id, class, facts, busy or free.

    Values of two classes are never compared, so a search runs on the machines of one: `dyno tune --machines CLASS`
    chooses it. A machine is busy while a trial holds its lock, whoever placed it. Its calibration is that of the newest
    run here in which it took part: how slow it was against its class.

    --split shows each machine as N parts, which are a class apart. Whether they slow each other down is measured when
    `dyno tune --split N` begins.

    --prepare brings every machine to what a search of SCENARIO asks it to prove. What is there already is left as it
    is, so the same command continues what was stopped. Each machine has a version of dynamometer that can be prepared.

    \b
    Examples:
      dyno machines --places ray://10.0.0.5:10001
      dyno machines --places 10.0.0.5:6379 --json
      dyno machines --places ray://10.0.0.5:10001 --prepare scenarios/quickstart.yaml
    """
    if scenario is not None:
        if split > 1:
            raise UsageError(
                "--prepare and --split are not combined: the parts of a machine use what was brought to it"
            )
        return _prepare(address, with_checked_code(checked_scenario(scenario, reads_models=True)), as_json)
    with open_cluster(address, split) as cluster:
        found = survey(cluster)
    last = last_calibrations(results or DEFAULT_RESULTS)
    if as_json:
        click.echo(json.dumps({"machines": [_as_dict(each, last) for each in found]}, indent=2, default=str))
    else:
        _print(found, last)
    if not any(each.described for each in found):
        raise EnvironmentFault("no machine of the cluster answered")
    return 0


def _prepare(address: str, resolved: ResolvedScenario, as_json: bool) -> int:
    check_goes_elsewhere(resolved, address, others={})
    with open_cluster(address) as cluster:
        done = prepare(cluster, survey(cluster), resolved, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"prepared": [to_json(each) for each in done]}, indent=2))
    else:
        for each in done:
            name = each.machine or f"node {short(each.node)}"
            did = "; ".join(each.did) or "nothing was missing"
            click.echo(f"{name}: not ready: {each.why_not}" if each.why_not else f"{name}: ready ({did})")
    unready = [each for each in done if each.why_not]
    if unready:
        raise EnvironmentFault(f"{len(unready)} of {len(done)} machines are not ready; the same command continues")
    click.echo(f"Next: dyno tune {resolved.path} --places {address}", err=as_json)
    return 0


def _as_dict(found: Found, last: Mapping[str, LastCalibration]) -> dict[str, object]:
    if found.described is None:
        return {"node": found.node, "why_not": found.why}
    machine = found.described.machine
    return {
        "node": found.node,
        "id": machine.machine_id,
        "class": machine.machine_class,
        "busy_with_process": found.described.holder or None,
        "calibration": to_json(last.get(machine.machine_id)),
        "facts": dict(machine.facts),
    }


def _print(found: Sequence[Found], last: Mapping[str, LastCalibration]) -> None:
    table = Table("machine", "class", "state", "calibration", "facts", box=None)
    for each in found:
        if each.described is None:
            table.add_row(f"node {short(each.node)}", "", "silent", "", each.why)
            continue
        machine, holder = each.described.machine, each.described.holder
        state = f"busy (process {holder})" if holder else "free"
        calibration = _calibration_text(last.get(machine.machine_id))
        table.add_row(machine.machine_id, machine.machine_class, state, calibration, facts_text(machine.facts))
    table_console().print(table)


def _calibration_text(last: LastCalibration | None) -> str:
    if last is None or last.machine.ratio is None:
        return "none"
    is_ranked = last.machine.ranked == "ranked"
    return f"{last.machine.ratio.text}{'' if is_ranked else ', not ranked'} ({last.run})"


def facts_text(facts: Mapping[str, object]) -> str:
    """The facts that people know a machine by: CPU, cores, memory, and every GPU fact."""
    gpus = [f"{name} {facts[name]}" for name in deciding(facts) if name.startswith("gpu") and facts.get(name)]
    memory = f"{int(str(facts.get('memory_mib', 0))) // 1024} GiB"
    return ", ".join([str(facts.get("cpu_model")), f"{facts.get('cores_usable')} cores", memory, *gpus])
