"""`dyno doctor`: what this machine can launch and measure, and why not the rest."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engines.errors import Unavailable
from engines.launching import load_engine, why_stale
from engines.registry import engine_names
from engines.t5 import cuda
from harness.cli.engine_table import feature_rows, markdown, print_features
from harness.measure.machine.checks import Check, machine_checks
from harness.measure.machine.facts import machine_facts
from harness.measure.machine.nvml import Gpus
from harness.measure.machine.rapl import CpuEnergy


@click.command(name="doctor", short_help="What this machine can launch and measure.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--engines", "wants_features", is_flag=True, help="Print only the feature table of the engines.")
@click.option("--markdown", "as_markdown", is_flag=True, help="With --engines: print the table as Markdown.")
def command(as_json: bool, wants_features: bool, as_markdown: bool) -> None:
    """Show what this machine can launch and measure, and why not the rest.

    Each check of the machine is ok, warn (with what to do) or unavailable; half a second is spent spinning on one core
    to see what the neighbours take.

    \b
    Examples:
      dyno doctor
      dyno doctor --engines
      dyno doctor --json | jq '.engines[] | select(.is_available)'
    """
    if as_markdown and not wants_features:
        raise click.UsageError("--markdown writes the feature table: use --engines --markdown")
    if wants_features:
        _features(as_json, as_markdown)
        return

    facts = machine_facts()
    checks = [asdict(check) for check in (*machine_checks(), *_telemetry(), _gpus())]
    engines = [_engine_row(name) for name in _engine_names()]
    if as_json:
        click.echo(json.dumps({"machine": facts, "checks": checks, "engines": engines}, indent=2, default=str))
        return
    _print_tables(facts, checks, engines)


def _telemetry() -> tuple[Any, ...]:
    """What of GPU and energy can be read while measuring."""

    energy = CpuEnergy()
    with Gpus() as gpus:
        slow = ", ".join(gpus.slowdowns())
        names = ", ".join(gpus.names)
        unread = gpus.unavailable
    return (
        Check(
            name="GPU telemetry",
            status="unavailable" if unread else "warn" if slow else "ok",
            found=unread or names + (f"; clocks held down now: {slow}" if slow else ""),
            advice="let them cool, or raise the power limit" if slow else "",
        ),
        Check(
            name="CPU energy",
            status="unavailable" if energy.unavailable else "ok",
            found=energy.unavailable or "RAPL counters are readable",
        ),
    )


def _gpus() -> Any:
    """What the bundled engine's tensor-parallel ranks can run on."""

    name = "GPUs of the t5 engine"
    try:
        group = cuda.group("cuda")
    except Unavailable as error:
        return Check(name=name, status="unavailable", found=str(error))
    found = f"{group.devices} GPU{'s' * (group.devices > 1)}"
    if group.devices > 1:
        found += (
            ", each reaches the others' memory" if group.are_peers else ", no peer access: sums are copied between them"
        )
    return Check(name=name, status="ok", found=found)


def _features(as_json: bool, as_markdown: bool) -> None:

    rows = feature_rows()
    if as_json:
        click.echo(json.dumps({"engines": rows}, indent=2))
    elif as_markdown:
        click.echo(markdown(rows))
    else:
        print_features(rows)


def _engine_names() -> tuple[str, ...]:

    return engine_names()


def _engine_row(name: str) -> dict[str, Any]:

    engine = load_engine(name)
    availability = engine.probe()
    row: dict[str, Any] = {
        "engine": name,
        "is_available": availability.is_available,
        "reason": availability.reason,
        "versions": dict(availability.versions),
        "warning": "; ".join(filter(None, (availability.note, why_stale(name, "")))),
    }
    if availability.is_available:
        able = engine.capabilities()
        row["dtypes"] = dict(able.effective_dtypes)
        row["hints"] = dict(able.hints)
        row["refused"] = {name: why for name, why in able.reasons.items() if not name.startswith("options.")}
        row["devices"] = list(able.devices)
        row["max_tensor_parallel_degree"] = able.max_tensor_parallel_degree
        row["options"] = dict(able.options)
    return row


def _print_tables(facts: dict[str, Any], checks: list[dict[str, Any]], engines: list[dict[str, Any]]) -> None:

    console = Console(soft_wrap=False)
    machine = Table(title="Machine", show_header=False, title_justify="left")
    for name, value in facts.items():
        machine.add_row(name, escape(_one_line(value)))
    console.print(machine)
    _print_checks(console, checks)

    table = Table(title="Engines", title_justify="left", show_lines=True)
    table.add_column("Engine", no_wrap=True)
    table.add_column("Can launch; dtype → what really computes; what it cannot do", overflow="fold")
    for row in engines:
        table.add_row(row["engine"], _able(row))
    console.print(table)
    console.print("Next: [bold]dyno tune scenarios/quickstart.yaml[/bold]")


def _able(row: dict[str, Any]) -> str:
    """What an engine can do here, as rich's markup; reasons may hold brackets ('dynamometer[openvino]')."""

    warning = [f"[yellow]warn[/yellow]: {escape(row['warning'])}"] if row["warning"] else []
    if not row["is_available"]:
        return "\n".join([f"[red]no[/red]: {escape(row['reason'])}", *warning])
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    dtypes = "; ".join(d if d == e else f"{d} → {e}" for d, e in row["dtypes"].items())
    hints = [f"[dim]{escape(f'{name}: {hint}')}[/dim]" for name, hint in row["hints"].items()]
    refused = [f"[dim]not {escape(f'{name}: {why}')}[/dim]" for name, why in row["refused"].items()]
    able = f"[green]yes[/green]: {escape(versions)}" if versions else "[green]yes[/green]"
    return "\n".join([able, *warning, escape(dtypes), *hints, *refused])


def _print_checks(console: Any, checks: list[dict[str, Any]]) -> None:

    colours = {"ok": "[green]ok[/green]", "warn": "[yellow]warn[/yellow]", "unavailable": "[dim]unavailable[/dim]"}
    table = Table(title="Fit for measuring", title_justify="left")
    for heading in ("Check", "", "Found", "What to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(check["name"], colours[check["status"]], escape(check["found"]), escape(check["advice"]))
    console.print(table)


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)
