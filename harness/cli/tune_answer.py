"""The closing answer of `dyno tune`: table, report page, recommendation, its files, and their verification."""

from __future__ import annotations

import json

import click

from engines.api import START_FILE
from engines.registry import traits
from harness.choose.for_container import choose_for
from harness.choose.recommendation import choose
from harness.choose.text import as_text, findings_text, next_command, wrapped
from harness.cli.terminal import table_console
from harness.errors import Interrupted, MeasurementInvalid, NothingToWrite, UsageError
from harness.properties.containers import newest_lmi
from harness.properties.write import Written, write_recommendation
from harness.recommendation import Recommendation
from harness.records import next_number
from harness.report.content.result_table import report_table
from harness.report.page.run_page import write_html
from harness.report.text.table_formats import print_table
from harness.store.codec import to_json
from harness.store.disk import write_text
from harness.store.reader import Run, read_run
from harness.trial.bench import Bench
from harness.trial.verify import RunFile, Verification, measurements, verify_written, why_not_started
from harness.tune.search_records import SearchResult

MOST_LOSSES = 5
"""Candidates that lost, in the answer at the end of a search; `dyno report` has all of them."""


def answer(
    bench: Bench, result: SearchResult, *, verifies: bool, as_json: bool, run_file: RunFile | None = None
) -> int:
    """Choose from the finished search, write and verify the files (by `run_file`, None: here), print; returns the exit
    code."""
    run = read_run(bench.writer.layout.root)
    if not as_json:
        print_table(report_table(run), table_console())
    _write_page(run)
    container = bench.inputs.scenario.recommend.container
    recommendation, given_up = _chosen(run, container)
    if given_up:
        click.echo(wrapped("Note: ", given_up), err=True)
    if not as_json:
        click.echo(as_text(recommendation, MOST_LOSSES))
    written = _write_files(run, recommendation, container)
    found = None
    why_not = why_not_started(recommendation.trial.candidate, container)
    if verifies and written and not why_not:
        try:
            found = _verify(bench, result, recommendation, written, run_file)
        except (KeyboardInterrupt, Interrupted):
            click.echo(
                f"interrupted while verifying; the recommendation is in {written.properties_path.parent}", err=True
            )
            return 130
        _write_page(run)  # again: now it says whether the written file reproduced the numbers
    following = f"dyno report {run.root}"
    if written:
        following = next_command(written.container, written.properties_path.parent, written.variables)
    if as_json:
        _print_json(run, result, recommendation, written, found, following)
    else:
        click.echo(wrapped("Stopped: ", result.stop_reason))
        if found is not None:
            click.echo(wrapped("Verification: ", found.sentence))
        elif verifies and written:
            click.echo(wrapped("Verification: ", f"none: {why_not}"))
        click.echo(f"Run: {run.root}")
        click.echo(f"Next: {following}")
    return 0 if found is None or found.is_inside else MeasurementInvalid.exit_code


def _chosen(run: Run, container: str) -> tuple[Recommendation, str]:
    """The best that the container can serve, and what that gives up; where it serves none, the best."""
    try:
        return choose_for(run, container)
    except UsageError:
        return choose(run), ""


def _write_page(run: Run) -> None:
    write_html(run, report_table(run), run.layout.report_html)
    click.echo(f"wrote {run.layout.report_html}", err=True)


def _write_files(run: Run, recommendation: Recommendation, container: str) -> Written | None:
    """The files for `container`, and those for AWS's newest LMI image where a start script is the answer and that image
    has the engine; None where what was measured is configured elsewhere."""
    try:
        written = write_recommendation(run, recommendation, container)
    except NothingToWrite as error:
        click.echo(f"dyno: {error}", err=True)
        return None
    _show(written)
    if written.properties_path.name == START_FILE and traits(recommendation.trial.candidate.engine).is_in_containers:
        try:
            _show(write_recommendation(run, recommendation, newest_lmi()))
        except UsageError as error:
            click.echo(f"dyno: {error}", err=True)
    return written


def _show(written: Written) -> None:
    for path in written.paths:
        click.echo(f"wrote {path}", err=True)
    if written.order_note:
        click.echo(wrapped("Note: ", written.order_note), err=True)
    if written.warnings:
        click.echo(findings_text(written.properties_path, written.warnings), err=True)


def _verify(
    bench: Bench, result: SearchResult, recommendation: Recommendation, written: Written, run_file: RunFile | None
) -> Verification:
    promised, number = measurements(result.trials, recommendation), next_number(result.trials)
    found = verify_written(bench, promised, written, number, lambda text: click.echo(text, err=True), run_file)
    write_text(written.properties_path.parent / "verification.json", json.dumps(found.as_dict(), indent=2) + "\n")
    return found


def _print_json(
    run: Run,
    result: SearchResult,
    recommendation: Recommendation,
    written: Written | None,
    found: Verification | None,
    following: str,
) -> None:
    shown = {
        "run": str(run.root),
        "stop": result.stop,
        "stop_reason": result.stop_reason,
        "recommendation": to_json(recommendation),
        "files": [str(path) for path in written.paths] if written else [],
        "verification": found.as_dict() if found else None,
        "next": following,
    }
    click.echo(json.dumps(shown, indent=2))
