"""Command-line options of `dyno tune` for the hosts that send the load (--expect-workers)."""

from __future__ import annotations

import click

from harness.errors import UsageError
from harness.load.hosts.coordinator import DEFAULT_BIND, LoadHosts
from harness.scenario.resolve import ResolvedScenario


def load_hosts(resolved: ResolvedScenario, expected: int | None, bind: str | None, wait_s: float) -> LoadHosts | None:
    """The load hosts that were asked for, not yet waited for."""

    if expected is None:
        if bind is not None:
            raise UsageError("--bind is for --expect-workers N; name how many load workers will come")
        return None
    if resolved.scenario.workload.locustfile is not None:
        raise UsageError(
            f"{resolved.path}: workload.locustfile runs on this host only: no code is sent to load workers; "
            "leave --expect-workers out"
        )
    return LoadHosts(expected, bind or DEFAULT_BIND, wait_s, announce=lambda text: click.echo(text, err=True))
