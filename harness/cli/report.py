"""`dyno report`: prints a stored run, or several side by side, as text, markdown, CSV, JSON or an HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from harness.errors import UsageError
from harness.report.content.comparison import compare
from harness.report.content.published_row import published_text
from harness.report.content.result_table import ReportTable, report_table
from harness.report.content.run_summary import story_of
from harness.report.page.comparison_page import write_comparison
from harness.report.page.run_page import write_html
from harness.report.text.sections import (
    comparison_json,
    comparison_markdown,
    print_comparison,
    print_report,
    report_markdown,
)
from harness.report.text.table_formats import as_csv, as_json, stdout_console
from harness.store.disk import write_text
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import Run, find_run, read_run

FORMATS = ("terminal", "markdown", "csv", "json", "html")
MOST_RUNS = 10


@click.command("report", epilog="Exit: 0 ok, 2 usage (no such run), 3 the run folder is damaged.")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="terminal", show_default=True, help="Output format."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File to write instead of standard output.",
)
@click.option("--sort", metavar="METRIC", help="Sort by this metric (default: the scenario's first objective).")
@click.option(
    "--baseline",
    type=click.Choice(["published"]),
    help="Add the row published elsewhere for FLAN-T5-XXL, where the run served that model.",
)
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
def command(
    runs: tuple[str, ...],
    form: str,
    out: Path | None,
    sort: str | None,
    baseline: str | None,
    results: Path | None,
) -> None:
    """Print a RUN: a run folder, a scenario's name (its newest run) or 'latest'. Several RUNs: side by side.

    --format html writes one page that needs no network: RUN/report.html unless --out names another file.

    \b
    Examples:
      dyno report latest
      dyno report latest --format html
      dyno report quickstart --format csv > quickstart.csv
      dyno report RUN-BEFORE RUN-AFTER --format markdown
    """

    where = results or DEFAULT_RESULTS
    stored = [read_run(find_run(where, name)) for name in runs or (None,)]
    if len(stored) > 1:
        _compare(stored, form, out)
        return

    table = report_table(stored[0], sort)
    if baseline is not None:
        click.echo(published_text(stored[0]), err=form != "terminal")
    _show(stored[0], table, form, out)


def _show(run: Run, table: ReportTable, form: str, out: Path | None) -> None:
    """One run in the format asked for."""

    if form == "html":
        path = out or run.layout.report_html
        write_html(run, table, path)
        click.echo(f"wrote {path}")
    elif form == "csv":
        _put(as_csv(run, table), out)
    elif form == "json":
        _put(as_json(run, table), out)
    elif form == "markdown":
        _put(report_markdown(story_of(run), table), out)
    else:
        _print(run, table, out)


def _print(run: Run, table: ReportTable, out: Path | None) -> None:

    story = story_of(run)
    console = stdout_console()
    with console.capture() as captured:
        print_report(story, table, console)
    _put(captured.get(), out)
    if out is None:
        verb = "recommend" if story.recommendation is not None else "report"
        tail = "" if story.recommendation is not None else " --format html"
        click.echo(f"Next: dyno {verb} {run.root}{tail}")


def _compare(stored: list[Run], form: str, out: Path | None) -> None:
    """Several runs in the format asked for."""

    if len(stored) > MOST_RUNS:
        raise UsageError(f"{len(stored)} runs: at most {MOST_RUNS} stand side by side; name fewer")
    if form == "csv":
        raise UsageError("--format csv holds one run; ask for each run's own, or for --format json")
    made = compare([story_of(run) for run in stored])
    if form == "html":
        path = out or stored[0].root / f"compare-{stored[1].root.name}.html"
        write_comparison(made, path)
        click.echo(f"wrote {path}")
    elif form == "markdown":
        _put(comparison_markdown(made), out)
    elif form == "json":
        _put(comparison_json(made), out)
    else:
        console = stdout_console()
        with console.capture() as captured:
            print_comparison(made, console)
        _put(captured.get(), out)


def _put(text: str, out: Path | None) -> None:
    """Into the file, which is then named, or onto standard output."""
    if out is None:
        click.echo(text, nl=False)
        return

    write_text(out, text)
    click.echo(f"wrote {out}", err=True)
