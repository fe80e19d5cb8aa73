"""`dyno engine`: installs and removes the separate Python environments that some engines need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from engines.environments import install as made
from engines.environments.install import installable
from engines.errors import Unavailable
from engines.foreign_servers.djl.found import RELEASED, install_djl, remove_djl, version_of
from engines.foreign_servers.java_servers.java import java_problem
from engines.launching import load_engine
from engines.nearest import did_you_mean
from engines.presets import PRESETS
from engines.registry import traits


@click.group("engine", short_help="Manage environments of engines, list presets.")
def command() -> None:
    """Install, list and remove separate Python environments for engines; list their presets.

    An engine whose packages are missing in dyno's own environment is served from the one installed here; a scenario
    block can also name one with `python:` (a venv folder, an interpreter, or auto).

    \b
    Examples:
      dyno engine list
      dyno engine install deepspeed
      dyno engine install openvino --python /usr/bin/python3.12
      dyno engine install djl --from serving-0.36.0.tar
      dyno engine remove deepspeed
    """


@command.command("install", epilog="Exit codes: 0 ok, 2 usage, 3 could not be made, 130 interrupted (nothing is left).")
@click.argument("name", metavar="ENGINE")
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="Interpreter or venv folder for the environment; default: dyno's own, whose torch is then shared, not copied, "
    "except for packages that clash with dyno's.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help=f"For {RELEASED}: its release archive (.tar, .tar.gz, .zip) or folder, which no package index has.",
)
def install(name: str, python: Path | None, source: Path | None) -> None:
    """Install ENGINE's environment from its pinned list, under $DYNO_CACHE/engines.

    Does nothing when the environment exists and is current. Safe to interrupt. DJL Serving has no environment: its
    release is unpacked there.

    \b
    Examples:
      dyno engine install deepspeed
      dyno engine install openvino --python /usr/bin/python3.12
      dyno engine install djl --from serving-0.36.0.tar
    """

    if name == RELEASED:
        _install_djl(python, source)
        return
    if source is not None:
        raise click.UsageError(f"--from belongs to {RELEASED}; {name} is installed from its pinned list")
    _check_name(name)
    environment = made.install(name, python, lambda line: click.echo(line, err=True))
    engine = load_engine(name, "auto")
    availability = engine.probe()
    packages = ", ".join(f"{package} {version}" for package, version in environment.packages.items())
    click.echo(f"{environment.folder}: {packages}")
    if not availability.is_available:
        raise Unavailable(f"{name} was installed but cannot run: {availability.reason}")
    if traits(name).has_start_file:
        engine.capabilities()  # reads the arguments of its server and keeps them: a check need not wait for that
    click.echo("Next: dyno doctor --engines")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def list_(as_json: bool) -> None:
    """List the engines that can have an environment, and what is in each.

    \b
    Examples:
      dyno engine list
      dyno engine list --json
    """

    rows = made.environments()
    if as_json:
        listed = [
            {"engine": row.engine, "state": row.state, "folder": str(row.folder), "packages": row.packages}
            for row in rows
        ]
        click.echo(json.dumps({"environments": listed}, indent=2))
        return

    table = Table()
    for heading in ("Engine", "State", "Folder", "Packages"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        packages = ", ".join(f"{name} {version}" for name, version in row.packages.items())
        table.add_row(row.engine, row.state, str(row.folder) if row.state != "absent" else "", packages)
    Console(soft_wrap=False).print(table)
    click.echo("Next: dyno engine install ENGINE")


@command.command("presets")
@click.argument("engine", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def presets(engine: str | None, as_json: bool) -> None:
    """List the search spaces that a scenario's block takes by name: `{engine: vllm, preset: throughput}`.

    A preset with several blocks holds values that make sense beside others only. What the block itself names wins.

    \b
    Examples:
      dyno engine presets
      dyno engine presets llamacpp
    """
    if engine is not None and engine not in PRESETS:
        hint = did_you_mean(engine, PRESETS)
        raise click.UsageError(f"{engine!r} has no presets; these have: {', '.join(PRESETS)}{hint}")
    shown = {name: named for name, named in PRESETS.items() if engine in (None, name)}
    if as_json:
        click.echo(json.dumps({name: {each: asdict(one) for each, one in of.items()} for name, of in shown.items()}))
        return
    for name, of in shown.items():
        for each, one in of.items():
            click.echo(f"{{engine: {name}, preset: {each}}}: {one.what}")
            for block in one.blocks:
                click.echo(f"  {_written(block)}")


def _written(block: Mapping[str, Any]) -> str:
    """A block as a scenario writes it."""
    parts = [
        f"{name}: {{{_written(value)}}}" if isinstance(value, Mapping) else f"{name}: {json.dumps(value)}"
        for name, value in block.items()
    ]
    return ", ".join(parts).replace('"', "")


@command.command("remove")
@click.argument("name", metavar="ENGINE")
def remove(name: str) -> None:
    """Remove ENGINE's environment.

    \b
    Examples:
      dyno engine remove deepspeed
    """

    if name == RELEASED:
        removed = remove_djl()
    else:
        _check_name(name)
        removed = made.remove(name)
    click.echo("\n".join(f"removed {folder}" for folder in removed) or f"{name} has no environment here")


def _install_djl(python: Path | None, source: Path | None) -> None:
    if python is not None:
        raise click.UsageError(f"--python: {RELEASED} serves from dyno's own Python, or the one that its block names")
    if source is None:
        raise click.UsageError(
            f"{RELEASED} is in no package index: name its release with --from ARCHIVE or --from FOLDER"
        )
    home = install_djl(source)
    problem = java_problem()
    click.echo(f"{home}: DJL Serving {version_of(home)}")
    if problem:
        raise Unavailable(f"{RELEASED} was installed but cannot run: {problem}")
    click.echo("Next: dyno doctor")


def _check_name(name: str) -> None:

    if name not in installable():
        raise click.UsageError(f"{name!r} has no environment to install; these have: {', '.join(installable())}")
