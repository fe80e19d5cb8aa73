"""`dyno scenario`: checks, shows or describes scenario files, without launching anything."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import click

from harness.errors import ScenarioError
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.scenario.schema import json_schema
from harness.scenario.yaml_nodes import write
from harness.space.check_files import checked_scenario
from harness.space.check_options import unchecked_options

_FILE = click.argument("scenario", type=click.Path(path_type=Path), metavar="SCENARIO")
_SET = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field: workload.load.users=4."
)


@click.group("scenario")
def command() -> None:
    """Check, show or describe scenario files."""


@command.command("check", epilog="Exit codes: 0 every file is right, 2 something is wrong.")
@click.argument("scenarios", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="SCENARIO...")
@_SET
def check(scenarios: tuple[Path, ...], overrides: tuple[str, ...]) -> int:
    """Check whether scenario files are right; every mistake at once, each with file and line.

    Options of vLLM, llama.cpp, SGLang and transformers serve are checked against the version that is installed.

    \b
    Examples:
      dyno scenario check scenarios/*.yaml
      dyno scenario check scenarios/quickstart.yaml --set search.trials=30
    """

    is_wrong = False
    for path in scenarios:
        try:
            click.echo(_checked_line(path, overrides))
        except ScenarioError as error:
            click.echo(str(error), err=True)
            is_wrong = True
    return 2 if is_wrong else 0


@command.command("show")
@_FILE
@_SET
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def show(scenario: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print a scenario with every default filled in, and the full paths of its files.

    \b
    Examples:
      dyno scenario show scenarios/quickstart.yaml
      dyno scenario show scenarios/quickstart.yaml --json | jq .resolved.digest
    """

    shown = resolve(load_scenario(scenario, overrides), scenario).as_dict()
    click.echo(json.dumps(shown, indent=2) if as_json else write(shown), nl=as_json)


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of scenario files, for editors.

    \b
    Example:
      dyno scenario schema > scenario.schema.json
    """

    click.echo(json.dumps(json_schema(), indent=2))


def _checked_line(path: Path, overrides: tuple[str, ...]) -> str:

    resolved = checked_scenario(path, overrides, reads_models=True)
    scenario = resolved.scenario
    size = sum(prod(len(values) for values in block.axes().values()) for block in scenario.space)
    engines = ", ".join(dict.fromkeys(block.engine for block in scenario.space))
    line = f"{path}: right; {scenario.name} {resolved.digest}, {size} candidates of {engines}"
    return "\n".join([line, *(f"{path}: {note}" for note in unchecked_options(resolved))])
