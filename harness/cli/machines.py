"""`dyno machines`: which machines a cluster has for the trials of a search, and whether they are free."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click
from rich.table import Table

from harness.cli.terminal import table_console
from harness.errors import EnvironmentFault
from harness.measure.machine.machine_class import deciding
from harness.places.open_cluster import ADDRESS_HELP, open_cluster
from harness.places.survey import Found, survey


@click.command(name="machines", short_help="Show the machines of a cluster that can take trials.")
@click.option("--places", "address", required=True, metavar="ADDRESS", help=ADDRESS_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every fact.")
def command(address: str, as_json: bool) -> int:
    """Show the machines of a cluster that can take trials: id, class, facts, busy or free.

    Values of two classes are never compared, so a search runs on the machines of one: `dyno tune --machines CLASS`
    chooses it. A machine is busy while a trial holds its lock, whoever placed it.

    \b
    Examples:
      dyno machines --places ray://10.0.0.5:10001
      dyno machines --places 10.0.0.5:6379 --json
    """
    with open_cluster(address) as cluster:
        found = survey(cluster)
    if as_json:
        click.echo(json.dumps({"machines": [_as_dict(each) for each in found]}, indent=2, default=str))
    else:
        _print(found)
    if not any(each.described for each in found):
        raise EnvironmentFault("no machine of the cluster answered")
    return 0


def _as_dict(found: Found) -> dict[str, object]:
    if found.described is None:
        return {"node": found.node, "why_not": found.why}
    machine = found.described.machine
    return {
        "node": found.node,
        "id": machine.machine_id,
        "class": machine.machine_class,
        "busy_with_process": found.described.holder or None,
        "facts": dict(machine.facts),
    }


def _print(found: Sequence[Found]) -> None:
    table = Table("machine", "class", "state", "facts", box=None)
    for each in found:
        if each.described is None:
            table.add_row(f"node {each.node[:8]}", "", "silent", each.why)
            continue
        machine, holder = each.described.machine, each.described.holder
        state = f"busy (process {holder})" if holder else "free"
        table.add_row(machine.machine_id, machine.machine_class, state, facts_text(machine.facts))
    table_console().print(table)


def facts_text(facts: Mapping[str, object]) -> str:
    """The facts that people know a machine by: CPU, cores, memory, and every GPU fact."""
    gpus = [f"{name} {facts[name]}" for name in deciding(facts) if name.startswith("gpu") and facts.get(name)]
    memory = f"{int(str(facts.get('memory_mib', 0))) // 1024} GiB"
    return ", ".join([str(facts.get("cpu_model")), f"{facts.get('cores_usable')} cores", memory, *gpus])
