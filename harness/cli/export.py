"""`dyno export`: hands a stored run's numbers to MLflow, OpenTelemetry, Prometheus or Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import click

from harness.errors import UsageError
from harness.export.numbers import RunNumbers, numbers_of
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import find_run, read_run

TARGETS = ("mlflow", "otel", "prometheus", "wandb-offline")
_BY_NETWORK = ("mlflow", "otel")
_TAKES_TEXTS = ("mlflow", "wandb-offline")


@click.command(
    "export", epilog="Exit: 0 ok, 2 usage (no such run), 3 a package is missing, or the store did not take it."
)
@click.argument("run_name", required=False, metavar="[RUN]")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="The project that takes the run.")
@click.option("--uri", help="Address of MLflow's store or of the collector (default: as their own variables have it).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File of prometheus (default RUN/metrics.prom), folder of wandb-offline (default RUN).",
)
@click.option("--with-texts", is_flag=True, help="Send the stored answers too; without it no text of a request leaves.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
def command(
    run_name: str | None, target: str, uri: str | None, out: Path | None, with_texts: bool, results: Path | None
) -> None:
    """Hand the numbers of a RUN (a run folder, a scenario's name or 'latest') to another project's store.

    Of each measured trial its axes, its metrics with their intervals, and the kinds of its doubts. Neither prompts nor
    answers leave, nor errors and reasons, which may quote them.

    \b
    Examples:
      dyno export latest --to prometheus
      dyno export latest --to mlflow --uri http://127.0.0.1:5000
      dyno export latest --to otel --uri http://127.0.0.1:4318/v1/metrics
    """
    _check(target, uri, out, with_texts=with_texts)
    run = read_run(find_run(results or DEFAULT_RESULTS, run_name))
    numbers = numbers_of(run)
    if not numbers.trials:
        raise UsageError(f"{run.root}: expected a trial with numbers, got none; dyno report {run.root} states why")
    click.echo(_hand_over(numbers, target, uri, out or _default_out(run.root, target), with_texts=with_texts))
    if numbers.left_out:
        click.echo(f"left out: {numbers.left_out} trials without numbers", err=True)
    click.echo(f"Next: dyno report {run.root}")


def _check(target: str, uri: str | None, out: Path | None, *, with_texts: bool) -> None:
    if uri is not None and target not in _BY_NETWORK:
        raise UsageError(f"--uri: expected --to {' or '.join(_BY_NETWORK)}, got {target}; it writes to --out")
    if out is not None and target in _BY_NETWORK:
        raise UsageError(f"--out: expected --to prometheus or wandb-offline, got {target}; it sends to --uri")
    if with_texts and target not in _TAKES_TEXTS:
        raise UsageError(f"--with-texts: expected --to {' or '.join(_TAKES_TEXTS)}, got {target}, which takes numbers")


def _default_out(root: Path, target: str) -> Path:
    return root / "metrics.prom" if target == "prometheus" else root


def _hand_over(numbers: RunNumbers, target: str, uri: str | None, out: Path, *, with_texts: bool) -> str:
    """Each project's own file imports its package, and only when it is asked for."""
    if target == "prometheus":
        from harness.export.prometheus import write_text_file

        write_text_file(numbers, out)
        return f"wrote {out}"
    if target == "mlflow":
        from harness.export.mlflow import send as send_to_mlflow

        return send_to_mlflow(numbers, uri, with_texts=with_texts)
    if target == "otel":
        from harness.export.otel import send as send_to_otel

        return send_to_otel(numbers, uri)
    from harness.export.wandb import write_offline

    return write_offline(numbers, out, with_texts=with_texts)
