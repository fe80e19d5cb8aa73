"""`dyno deploy sagemaker`: creates, measures and deletes an endpoint, and cleans up leftovers."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import click

from engines.errors import SpecInvalid
from engines.models.download.aws_region import region_or_configured
from engines.models.download.redaction import redact
from engines.sagemaker.aws import Aws
from engines.sagemaker.catalogue import check_region
from engines.sagemaker.endpoint import expires_s
from engines.sagemaker.removal import leftovers, remove_leftovers
from engines.sagemaker.weights import release_weights
from harness.cli.signals import stopped_by_signals
from harness.deploy.sagemaker import Deployment, Order, carry_out, plan_deployment, plan_lines, result_path
from harness.deploy.sagemaker import as_json as result_of
from harness.deploy.text import comparison
from harness.errors import EnvironmentFault, Interrupted, UsageError
from harness.records import Trial
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import Run, find_run, read_run

DEFAULT_VERB = "run"


class _Sagemaker(click.Group):
    """`dyno deploy sagemaker RUN ...` means `dyno deploy sagemaker run RUN ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = [DEFAULT_VERB, *args]
        return super().parse_args(ctx, args)


@click.group("deploy")
def command() -> None:
    """Put a recommendation on an endpoint, measure the endpoint, take it down again."""


@command.group("sagemaker", cls=_Sagemaker)
def sagemaker() -> None:
    """Create a SageMaker endpoint, measure it with the run's load, delete it.

    \b
    Examples:
      dyno deploy sagemaker latest --instance ml.g5.xlarge --image URI --role ARN --bucket B --max-cost-usd 2
      dyno deploy sagemaker RUN --instance ml.g5.12xlarge --container 0.36.0-lmi20 --role ARN --bucket B --dry-run
      dyno deploy sagemaker cleanup
    """


@sagemaker.command("run", epilog="Exit: 0 ok, 2 usage, 3 machine or AWS, 4 measurement invalid, 130 interrupted.")
@click.argument("run")
@click.option("--instance", required=True, metavar="TYPE", help="Instance type, such as ml.g5.12xlarge.")
@click.option("--role", metavar="ARN", help="Execution role (default $DYNO_SAGEMAKER_ROLE).")
@click.option("--bucket", metavar="NAME", help="S3 bucket for archive and weights (default $DYNO_SAGEMAKER_BUCKET).")
@click.option(
    "--region", metavar="REGION", help="AWS region (default: $AWS_REGION, $AWS_DEFAULT_REGION, the profile's)."
)
@click.option("--container", metavar="VERSION", help="LMI version, such as 0.36.0-lmi20 (default: the scenario's).")
@click.option("--image", metavar="URI", help="Container image that holds dyno's own server (instead of an LMI image).")
@click.option(
    "--files", type=click.Path(path_type=Path), help="Folder or model.tar.gz to serve instead of the recommended files."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Device of the endpoint (default: as measured).")
@click.option(
    "--tensor-parallel-degree", type=click.IntRange(min=1), metavar="N", help="GPUs per worker (default: as measured)."
)
@click.option(
    "--max-cost-usd", type=click.FloatRange(min=0, min_open=True), help="Stop before the endpoint has cost this much."
)
@click.option(
    "--usd-per-hour",
    type=click.FloatRange(min=0, min_open=True),
    help="Price of the instance; overrides the catalogue's.",
)
@click.option("--poll-s", type=click.FloatRange(min=0.01), help="Seconds between two looks at the endpoint's status.")
@click.option("--ready-timeout-s", type=click.FloatRange(min=0.1), help="Seconds to wait for the endpoint to be ready.")
@click.option(
    "--cloudwatch-wait-s", type=click.FloatRange(min=0), help="Seconds to wait at most for CloudWatch's metrics."
)
@click.option(
    "--data-download-timeout-s",
    type=click.IntRange(60, 3600),
    help="Seconds that SageMaker may take to download the weights (default: from their size).",
)
@click.option(
    "--health-check-timeout-s",
    type=click.IntRange(60, 3600),
    help="Seconds that the container may take to load (default: from the weights' size).",
)
@click.option(
    "--capacity-retries", type=click.IntRange(0, 100), help="Number of retries when AWS has no instance free."
)
@click.option(
    "--keep", is_flag=True, help="Keep the endpoint running after the measurement; AWS continues to charge for it."
)
@click.option("--dry-run", is_flag=True, help="Print requests, memory, time and cost; contact nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs (default results/local).")
def run_command(run: str, dry_run: bool, as_json: bool, results: Path | None, **asked: Any) -> int:
    """Deploy the recommendation of RUN, measure it, delete everything.

    RUN is a run folder, a scenario's name (its newest run) or 'latest'. Ctrl-C, a crash or kill -9 delete everything
    too; what a dead machine leaves, `dyno deploy sagemaker cleanup` finds.
    """

    found = read_run(find_run(results or DEFAULT_RESULTS, run))
    deployment = plan_deployment(found, _order(asked))
    if dry_run:
        plan = deployment.prepared.plan
        requests = {"requests": plan.requests(expires_s(plan)), "expected_usd": deployment.expected_usd}
        click.echo(json.dumps(requests, indent=2) if as_json else "\n".join(plan_lines(deployment)))
        return 0
    return _carry_out(found, deployment, as_json)


@sagemaker.command("cleanup", epilog="Exit: 0 nothing is left, 2 usage, 3 something could not be deleted.")
@click.option(
    "--region", metavar="REGION", help="AWS region (default: $AWS_REGION, $AWS_DEFAULT_REGION, the profile's)."
)
@click.option(
    "--all",
    "is_all",
    is_flag=True,
    help="Also delete what may still be in use: kept endpoints, or those launched elsewhere.",
)
@click.option("--dry-run", is_flag=True, help="List what would be deleted; delete nothing.")
def cleanup_command(region: str | None, is_all: bool, dry_run: bool) -> int:
    """Delete endpoints, configs, models and uploads that an ended dyno left, found by journal and by tag."""

    try:
        named = region_or_configured(region or "")
        check_region(named)
    except SpecInvalid as error:
        raise UsageError(str(error)) from None
    _log_to_stderr()
    aws = Aws(named)
    found = leftovers(aws, time.time())
    chosen = [each for each in found if is_all or not each.is_in_use]
    for each in found:
        word = "would delete" if dry_run else "deleting"
        verdict = word if each in chosen else "keeping (--all deletes it too)"
        click.echo(f"{verdict} {each.resource.kind} {each.resource.name}: {each.why}")
    failed = [] if dry_run else remove_leftovers(aws, chosen)
    if failed:
        raise EnvironmentFault("could not delete: " + "; ".join(failed))
    kept = f"; {len(found) - len(chosen)} kept" if len(found) > len(chosen) else ""
    click.echo((f"{len(chosen)} leftovers in {named}" if chosen else f"nothing to clean up in {named}") + kept)
    return 0


def _order(asked: dict[str, Any]) -> Order:

    account = {name: value for name in ("role", "bucket") if (value := asked.pop(name))}
    own = {name: asked.pop(name) for name in ("container", "device", "tensor_parallel_degree", "files")}
    options = {name: value for name, value in asked.items() if value is not None and value is not False}
    return Order(
        options=options,
        account=account,
        container=own["container"] or "",
        device=own["device"] or "",
        tensor_parallel_degree=own["tensor_parallel_degree"],
        files=own["files"],
    )


def _carry_out(run: Run, deployment: Deployment, as_json: bool) -> int:

    _log_to_stderr()
    with stopped_by_signals():
        try:
            try:
                trial = carry_out(deployment, lambda text: click.echo(text, err=True))
            finally:
                if not deployment.prepared.plan.is_kept:
                    release_weights()
        except (KeyboardInterrupt, Interrupted):
            release_weights()  # also what was to be kept: nothing serves it now
            click.echo("interrupted; everything that was created has been deleted", err=True)
            return 130
    click.echo(f"wrote {result_path(deployment, trial)}", err=True)
    if as_json:
        click.echo(json.dumps(result_of(deployment, trial), indent=2))
        return _code(trial, deployment.recommendation.trial)
    if trial.outcome != "ok":
        raise EnvironmentFault(f"{trial.outcome}: {trial.reason}")
    click.echo(comparison(deployment.recommendation.trial, trial))
    plan = deployment.prepared.plan
    ending = f"--region {plan.region} " + ("--all" if plan.is_kept else "--dry-run")
    click.echo(f"Next: dyno deploy sagemaker cleanup {ending}")
    return _code(trial, deployment.recommendation.trial)


def _code(trial: Trial, here: Trial) -> int:
    """4 also where the answers were Normal here and are not on the endpoint: its numbers are those of another model."""
    if trial.outcome == "client_limited":
        return 4
    if trial.quality and here.quality and here.quality.verdict == "Normal" != trial.quality.verdict:
        there = trial.quality
        click.echo(f"dyno: the answers are Normal here, {there.verdict} on the endpoint: {there.reason}", err=True)
        return 4
    return 0 if trial.outcome == "ok" else 3


def _log_to_stderr() -> None:
    """Progress of the endpoint's life; every line goes through the redactor."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            click.echo(redact(record.getMessage()), err=True)

    logger = logging.getLogger("dyno.sagemaker")
    logger.handlers = [Lines()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
