"""`dyno properties`: checks, compares, migrates and translates serving.properties files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import psutil

from engines.serving_properties.java_text import PropertiesSyntaxError, format_properties, parse_properties
from harness.choose.text import findings_text, wrapped
from harness.errors import UsageError
from harness.properties.containers import parse_container
from harness.properties.diff import Difference, container_differences, file_differences, known_keys, rule_text
from harness.properties.environment_variables import from_environment, parse_environment, to_environment
from harness.properties.lint.findings import lint
from harness.properties.lint.meaning import meanings
from harness.properties.lint.records import Finding, Place, model_facts
from harness.properties.migrate import Migration, migrate
from harness.store.disk import write_text
from harness.units import BYTES_PER_MIB

LINT_FAILED = 1
"""Exit code when a check found a fault (house style 35)."""

_FILE = click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
_CONTAINER = click.option(
    "--container",
    default="dynamometer-0.1",
    show_default=True,
    metavar="VERSION",
    help="Container version to check for, such as 0.36.0-lmi20.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


@click.group("properties")
def command() -> None:
    """Check, compare, migrate and translate serving.properties files."""


@command.command("lint", epilog="Exit: 0 no errors, 1 errors, 2 usage.")
@_FILE
@_CONTAINER
@click.option("--here", is_flag=True, help="Judge what depends on the machine and the folder by this one.")
@_JSON
def lint_command(file: Path, container: str, here: bool, as_json: bool) -> int:
    """List what is wrong with FILE in one container version, line by line.

    A file without errors is followed by what its values mean there: the order of waiting requests, the queue, deaths.
    Reads the config.json, model.py and requirements.txt beside FILE too, where there are any.

    \b
    Examples:
      dyno properties lint serving.properties --container 0.24.0
      dyno properties lint model/serving.properties --container 0.36.0-lmi20 --here
    """

    beside = [file.parent / name for name in ("model.py", "requirements.txt")]
    script, requirements = [_text(path) if path.is_file() else "" for path in beside]
    place = _this_place(file.parent) if here else None
    findings = lint(_text(file), container, model_facts(file.parent), script, requirements, place)
    is_read = not any(finding.severity == "error" for finding in findings)
    meaning = meanings(_values(file), parse_container(container)) if is_read else []
    if as_json:
        answer = {"file": str(file), "container": container, "findings": _rows(findings), "meaning": meaning}
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(findings_text(file, findings))
        for sentence in meaning:
            click.echo(wrapped("there: ", sentence))
    return _status(findings)


@command.command("diff", epilog="Exit: 0 equal, 1 different, 2 usage.")
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@_JSON
def diff(before: str, after: str, as_json: bool) -> int:
    """Compare two files as Java reads them, or what two container versions understand.

    \b
    Examples:
      dyno properties diff old/serving.properties new/serving.properties
      dyno properties diff 0.24.0 0.36.0-lmi20
    """

    if Path(before).is_file() and Path(after).is_file():
        found = file_differences(_values(Path(before)), _values(Path(after)))
    elif Path(before).is_file() or Path(after).is_file():
        raise UsageError(f"expected two files or two container versions, got {before!r} and {after!r}")
    else:
        found = container_differences(parse_container(before), parse_container(after))
    if as_json:
        names = ("key", "before", "after", "who")
        click.echo(json.dumps([{name: getattr(one, name) for name in names} for one in found], indent=2))
    else:
        click.echo(_differences_text(found) or "no difference")
    return LINT_FAILED if found else 0


@command.command("migrate", epilog="Exit: 0 ok, 1 the target still objects, 2 usage or a retired engine.")
@_FILE
@click.option("--from", "source", required=True, metavar="VERSION", help="The container FILE was written for.")
@click.option("--to", "target", required=True, metavar="VERSION", help="The container FILE is rewritten for.")
@click.option("--replace-engine", is_flag=True, help="Write the replacement of a retired engine or handler.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files (default: print them)."
)
@_JSON
def migrate_command(file: Path, source: str, target: str, replace_engine: bool, out: Path | None, as_json: bool) -> int:
    """Rewrite FILE for another container version; every change is named with its reason.

    \b
    Examples:
      dyno properties migrate serving.properties --from 0.26.0 --to 0.33.0
      dyno properties migrate serving.properties --from 0.24.0 --to 0.36.0-lmi20 --replace-engine --out model/
    """

    old, new = parse_container(source), parse_container(target)
    beside = file.parent / "model.py"
    script = _text(beside) if beside.is_file() else ""
    facts = model_facts(file.parent)
    done = migrate(_values(file), old, new, facts, replace_engine=replace_engine, script=script)
    for step in done.steps:
        click.echo(f"{step.action}: {_change(step.key, step.before, step.after)}: {step.why}", err=True)
    paths = _write(done, out) if out is not None else []
    if as_json:
        click.echo(json.dumps(_migration_json(done, paths), indent=2))
    elif out is None:
        click.echo(done.text, nl=False)
        for name, text in done.files.items():
            click.echo(f"beside it, {name}: {text.strip()}", err=True)
    for path in paths:
        click.echo(f"wrote {path}", err=True)
    if done.findings and not as_json:
        click.echo(findings_text((out or Path()) / "serving.properties", done.findings), err=True)
    return _status(list(done.findings))


@command.command("env", epilog="Exit: 0 ok, 2 a key or line that cannot be translated.")
@_FILE
@click.option(
    "--container", default="0.36.0", show_default=True, metavar="VERSION", help="The container that reads them."
)
@click.option("--reverse", is_flag=True, help="FILE holds variables (NAME=VALUE lines or a JSON object).")
@_JSON
def env(file: Path, container: str, reverse: bool, as_json: bool) -> None:
    """Translate FILE into the container's environment variables, or back.

    Prints NAME=VALUE lines for docker's --env-file; with --json an object for boto3's Environment.

    \b
    Examples:
      dyno properties env serving.properties > container.env
      dyno properties env container.env --reverse --container 0.27.0 > serving.properties
    """

    target = parse_container(container)
    if target.is_own:
        raise UsageError(f"--container: {target.name} reads no variables, only a file; name a container such as 0.36.0")
    if not reverse:
        variables = to_environment(_values(file), target)
        lines = "".join(f"{name}={value}\n" for name, value in variables.items())
        click.echo(json.dumps(variables, indent=2) if as_json else lines, nl=as_json)
        return
    found = from_environment(parse_environment(_text(file), str(file)), target)
    for name in found.server_wide:
        click.echo(f"{file}: {name}: a setting of the whole server, which no model's file holds; left out", err=True)
    for name in found.ignored:
        click.echo(f"{file}: {name}: not the container's; left out", err=True)
    click.echo(json.dumps(dict(found.values), indent=2) if as_json else format_properties(found.values), nl=as_json)


@command.command("keys")
@click.argument("container", metavar="VERSION")
@_JSON
def keys(container: str, as_json: bool) -> None:
    """List the keys one container version reads: handler, type, range, default.

    \b
    Examples:
      dyno properties keys 0.36.0-lmi20
    """

    rules = known_keys(parse_container(container))
    if as_json:
        rows = [{"key": key, "handler": who, "takes": rule_text(rule)} for (key, who), rule in rules.items()]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(key) for key, _ in rules)
    handlers = max(len(who) for _, who in rules)
    for (key, who), rule in rules.items():
        click.echo(f"{key:{width}}  {who:{handlers}}  {rule_text(rule)}")


def _this_place(folder: Path) -> Place:
    gpus = len([each for each in Path("/dev").glob("nvidia*") if each.name.removeprefix("nvidia").isdigit()])
    return Place(folder=folder, gpus=gpus, memory_mib=psutil.virtual_memory().total // BYTES_PER_MIB)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return path.read_bytes().decode("latin-1")  # what java.util.Properties does with a byte stream
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name an existing serving.properties") from error


def _values(path: Path) -> dict[str, str]:

    try:
        return parse_properties(_text(path))
    except PropertiesSyntaxError as error:
        raise UsageError(f"{path}: Java refuses the file: {error}") from error


def _write(done: Migration, out: Path) -> list[Path]:

    files = {"serving.properties": done.text, **done.files}
    for name, text in files.items():
        write_text(out / name, text)
    return [out / name for name in files]


def _migration_json(done: Migration, paths: list[Path]) -> dict[str, Any]:
    names = ("key", "action", "before", "after", "why")
    return {
        "text": done.text,
        "files": dict(done.files),
        "steps": [{name: getattr(step, name) for name in names} for step in done.steps],
        "findings": _rows(list(done.findings)),
        "written": [str(path) for path in paths],
    }


def _differences_text(found: tuple[Difference, ...]) -> str:
    return "\n".join(
        f"{_sign(one)} {_change(one.key, one.before, one.after)}{f'  ({one.who})' if one.who else ''}" for one in found
    )


def _sign(one: Difference) -> str:
    if one.before is None:
        return "+"
    return "-" if one.after is None else "~"


def _change(key: str, before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return f"{key}: {after if before is None else before}"
    return f"{key}: {before} -> {after}"


def _rows(findings: list[Finding]) -> list[dict[str, Any]]:
    return [{name: getattr(finding, name) for name in ("line", "key", "severity", "message")} for finding in findings]


def _status(findings: list[Finding]) -> int:
    return LINT_FAILED if any(finding.severity == "error" for finding in findings) else 0
