"""`dyno engine`: installs and removes the separate Python environments that some engines need."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from engines.environments import install as made
from engines.environments.install import installable
from engines.errors import Unavailable
from engines.launching import load_engine


@click.group("engine", short_help="Manage separate Python environments for engines.")
def command() -> None:
    """Install, list and remove separate Python environments for engines.

    An engine whose packages are missing in dyno's own environment is served from the one installed here; a scenario
    block can also name one with `python:` (a venv folder, an interpreter, or auto).

    \b
    Examples:
      dyno engine list
      dyno engine install deepspeed
      dyno engine install openvino --python /usr/bin/python3.12
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
def install(name: str, python: Path | None) -> None:
    """Install ENGINE's environment from its pinned list, under $DYNO_CACHE/engines.

    Does nothing when the environment exists and is current. Safe to interrupt.

    \b
    Examples:
      dyno engine install deepspeed
      dyno engine install openvino --python /usr/bin/python3.12
    """

    _check_name(name)
    environment = made.install(name, python, lambda line: click.echo(line, err=True))
    availability = load_engine(name, "auto").probe()
    packages = ", ".join(f"{package} {version}" for package, version in environment.packages.items())
    click.echo(f"{environment.folder}: {packages}")
    if not availability.is_available:
        raise Unavailable(f"{name} was installed but cannot run: {availability.reason}")
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


@command.command("remove")
@click.argument("name", metavar="ENGINE")
def remove(name: str) -> None:
    """Remove ENGINE's environment.

    \b
    Examples:
      dyno engine remove deepspeed
    """

    _check_name(name)
    removed = made.remove(name)
    click.echo("\n".join(f"removed {folder}" for folder in removed) or f"{name} has no environment here")


def _check_name(name: str) -> None:

    if name not in installable():
        raise click.UsageError(f"{name!r} has no environment to install; these have: {', '.join(installable())}")
