"""`dyno report`: a stored run as the field's table, and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.report.tables import ReportTable
    from harness.store.reader import Run

FORMATS = ("table", "markdown", "csv", "json")


@click.command("report", epilog="Exit: 0 ok, 2 usage (no such run), 3 the run folder is damaged.")
@click.argument("run", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Also write a page.")
@click.option("--sort", metavar="METRIC", help="Sort by this metric (default: the scenario's first objective).")
@click.option("--baseline", type=click.Choice(["published"]), help="Add the field's published row, for its model only.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
def command(
    run: str | None, form: str, html: Path | None, sort: str | None, baseline: str | None, results: Path | None
) -> None:
    """Print the table of RUN: a run folder, a scenario's name (its newest run) or 'latest'.

    \b
    Examples:
      dyno report latest
      dyno report quickstart --format csv > quickstart.csv
      dyno report latest --html report.html
    """
    from harness.report.tables import report_table
    from harness.store.layout import DEFAULT_RESULTS
    from harness.store.reader import find_run, read_run

    stored = read_run(find_run(results or DEFAULT_RESULTS, run))
    table = report_table(stored, sort)
    if html is not None:
        from harness.report.html import write_html

        write_html(stored, table, html)
        click.echo(f"wrote {html}", err=True)
    _print(stored, table, form, wants_baseline=baseline is not None)


def _print(run: Run, table: ReportTable, form: str, *, wants_baseline: bool) -> None:
    from harness.report.formats import as_csv, as_json, as_markdown, print_table, stdout_console
    from harness.report.tables import why_nothing

    if wants_baseline:
        from harness.report.published import published_text

        click.echo(published_text(run), err=form != "table")
    if form == "csv":
        click.echo(as_csv(run, table), nl=False)
    elif form == "json":
        click.echo(as_json(run, table), nl=False)
    elif form == "markdown":
        click.echo(as_markdown(table), nl=False)
    else:
        print_table(table, stdout_console())
        reason = why_nothing(run)
        if reason:
            click.echo(f"No recommendation: {reason}")
        next_verb = "recommend" if not reason else "report"
        tail = "" if not reason else " --html report.html"
        click.echo(f"Next: dyno {next_verb} {run.root}{tail}")
