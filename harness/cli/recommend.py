"""`dyno recommend`: chooses from a stored run, writes the recommended files, verifies them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from harness.choose.for_container import choose_for
from harness.choose.text import as_text, findings_text, next_command, wrapped
from harness.cli.signals import stopped_by_signals
from harness.deploy.forms import FORMS, form
from harness.errors import MeasurementInvalid, UsageError
from harness.properties.containers import parse_container
from harness.properties.lint.records import Finding
from harness.properties.model_folder import put_model
from harness.properties.render import PROPERTIES, inside_the_endpoint, scenario_container
from harness.properties.write import (
    Written,
    measured_folder,
    source_of,
    write_recommendation,
)
from harness.recommendation import Recommendation
from harness.store.codec import to_json
from harness.store.disk import write_text
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import Run, find_run, read_run
from harness.trial.verify import verify, why_not_started


@click.command("recommend", epilog="Exit: 0 ok, 2 usage, 3 machine, 4 no valid choice or not reproduced.")
@click.argument("run", required=False)
@click.option(
    "--container", metavar="VERSION", help="Container that will serve the files: dynamometer-0.1, 0.36.0-lmi20, ..."
)
@click.option(
    "--format",
    "form_name",
    type=click.Choice(FORMS),
    default=PROPERTIES,
    show_default=True,
    help="Form in which the recommendation is written.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files.")
@click.option("--verify", is_flag=True, help="Start a server from what was written and measure it again.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
def command(
    run: str | None,
    container: str | None,
    form_name: str,
    out: Path | None,
    verify: bool,
    as_json: bool,
    results: Path | None,
) -> int:
    """Choose the best measured candidate of RUN, explain why the others lost, write serving.properties.

    RUN is a run folder, a scenario's name (its newest run) or 'latest'.

    \b
    Examples:
      dyno recommend latest
      dyno recommend RUN --container 0.36.0-lmi20 --out model/     (a winner that AWS's container has)
      dyno recommend latest --container dynamometer-0.1 --verify
      dyno recommend latest --format docker-compose --out deploy/

    `dyno properties` checks, compares and migrates files that exist.
    """
    if form_name != PROPERTIES and verify:
        raise UsageError(
            f"--verify starts a server from the written serving.properties, and not from --format {form_name}"
        )
    if form_name != PROPERTIES:
        return _write_form(run, container, form_name, out, as_json, results)
    return _recommend(run, container, out, verify, as_json, results)


def _write_form(
    ref: str | None, container: str | None, name: str, out: Path | None, as_json: bool, results: Path | None
) -> int:
    run = read_run(find_run(results or DEFAULT_RESULTS, ref))
    for note in run.notes:
        click.echo(note, err=True)
    target = container or scenario_container(run.manifest)
    recommendation, given_up = choose_for(run, target)
    _note(given_up)
    folder = (out or run.layout.recommendation_dir / name).resolve()
    source = source_of(run, recommendation)
    made = form(source, name, target, folder)
    _note(made.note)
    if made.needs_model:
        measured = measured_folder(run, recommendation)
        for path in put_model(inside_the_endpoint(source), parse_container(target), measured, folder):
            if path.name not in made.files:
                click.echo(f"wrote {path}", err=True)
    for each, text in made.files.items():
        write_text(folder / each, text)
        click.echo(f"wrote {folder / each}", err=True)
    if as_json:
        answer = {"recommendation": to_json(recommendation), "format": name, "container": target}
        files = [str(folder / each) for each in made.files]
        click.echo(json.dumps({**answer, "files": files, "next": made.next_command}, indent=2))
    else:
        click.echo(as_text(recommendation))
        click.echo(f"Next: {made.next_command}")
    return 0


def _as_rows(findings: list[Finding]) -> list[dict[str, Any]]:
    return [{name: getattr(finding, name) for name in ("line", "key", "severity", "message")} for finding in findings]


def _recommend(
    ref: str | None, container: str | None, out: Path | None, verify: bool, as_json: bool, results: Path | None
) -> int:

    run = read_run(find_run(results or DEFAULT_RESULTS, ref))
    for note in run.notes:
        click.echo(note, err=True)
    target = container or scenario_container(run.manifest)
    parse_container(target)  # an unknown one is refused before the answer is printed, not below it
    recommendation, given_up = choose_for(run, target)
    if verify and (why := why_not_started(recommendation.trial.candidate, target)):
        raise UsageError(f"--verify: {why}")
    _note(given_up)
    if not as_json:
        click.echo(as_text(recommendation))
    written = write_recommendation(run, recommendation, target, out)
    for path in written.paths:
        click.echo(f"wrote {path}", err=True)
    _note(written.order_note)
    if written.warnings:
        click.echo(findings_text(written.properties_path, written.warnings), err=True)
    verdict = _verify(run, recommendation, written) if verify else None
    if as_json:
        click.echo(json.dumps(_as_json(recommendation, written, verdict), indent=2))
    else:
        if verdict is not None:
            click.echo(wrapped("Measured again from the written file: ", verdict["sentence"]))
        click.echo(f"Next: {next_command(target, written.properties_path.parent, written.variables)}")
    return MeasurementInvalid.exit_code if verdict is not None and not verdict["is_inside"] else 0


def _note(text: str) -> None:
    if text:
        click.echo(wrapped("Note: ", text), err=True)


def _verify(run: Run, recommendation: Recommendation, written: Written) -> dict[str, Any]:

    with stopped_by_signals():
        return verify(run, recommendation, written, partial(click.echo, err=True)).as_dict()


def _as_json(recommendation: Recommendation, written: Written, verdict: dict[str, Any] | None) -> dict[str, Any]:

    answer: dict[str, Any] = {
        "recommendation": to_json(recommendation),
        "container": written.container,
        "files": [str(path) for path in written.paths],
        "warnings": _as_rows(list(written.warnings)),
        "order_note": written.order_note,
    }
    if verdict is not None:
        answer["verification"] = verdict
    return answer
