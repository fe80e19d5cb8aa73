"""`dyno gate --images OLD NEW`: the options of its endpoints, its plan and its measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.cli.signals import stopped_by_signals
from harness.deploy.images import ImagePlan, gate_images, plan_images
from harness.deploy.sagemaker import Order
from harness.errors import UsageError
from harness.gate.rules import Rules
from harness.gate.verdict import GateResult
from harness.store.reader import Run

_Command = TypeVar("_Command", bound=Callable[..., Any])
_POSITIVE = click.FloatRange(min=0, min_open=True)
_OPTIONS = (
    click.option("--instance", metavar="TYPE", help="Instance type of both endpoints (with --images)."),
    click.option("--role", metavar="ARN", help="Execution role (with --images; default $DYNO_SAGEMAKER_ROLE)."),
    click.option("--bucket", metavar="NAME", help="S3 bucket (with --images; default $DYNO_SAGEMAKER_BUCKET)."),
    click.option("--region", metavar="REGION", help="AWS region (with --images; default: the configured one)."),
    click.option("--usd-per-hour", type=_POSITIVE, help="Price of the instance (with --images)."),
    click.option("--max-cost-usd", type=_POSITIVE, help="Stop before all endpoints have cost this (with --images)."),
    click.option("--poll-s", type=click.FloatRange(min=0.01), help="Seconds between two looks at an endpoint."),
    click.option("--dry-run", is_flag=True, help="Print requests and cost (with --images); contact nothing."),
)


ENDPOINT_NAMES = ("instance", "role", "bucket", "region", "usd_per_hour", "max_cost_usd", "poll_s", "dry_run")
"""The parameters that these options become."""


def endpoint_options(command: _Command) -> _Command:
    """The command with the options of an endpoint."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_unused(asked: Mapping[str, Any]) -> None:
    """Raises UsageError where an option of endpoints was given without --images."""
    given = [name for name, value in asked.items() if value]
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')}: expected --images OLD NEW beside it, got none")


def planned(run: Run, images: tuple[str, str], rounds: int | None, asked: Mapping[str, Any]) -> ImagePlan:
    """The endpoints to be. Raises UsageError or EnvironmentFault with one sentence."""
    if asked["instance"] is None:
        raise UsageError("--images: expected --instance TYPE beside it, such as ml.g5.xlarge, got none")
    options = {name: asked[name] for name in ("instance", "region", "usd_per_hour", "poll_s") if asked[name]}
    account = {name: asked[name] for name in ("role", "bucket") if asked[name]}
    order = Order(options={**options, "cloudwatch_wait_s": 0}, account=account)
    return plan_images(run, images, order, rounds, asked["max_cost_usd"])


def measured(plan: ImagePlan, rules: Rules, results: Path, max_minutes: float | None) -> GateResult:
    """The verdict, once every endpoint is gone again."""
    with stopped_by_signals():
        return gate_images(plan, rules, results, max_minutes, lambda text: click.echo(text, err=True))
