"""What `dyno tune` asks of its load beside the scenario: other hosts that send it, and a page that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.load.hosts.coordinator import LoadHosts
    from harness.load.web_ui.launch import WebUi
    from harness.scenario.resolve import ResolvedScenario


def load_hosts(resolved: ResolvedScenario, expected: int | None, bind: str | None, wait_s: float) -> LoadHosts | None:
    """The load hosts that were asked for, not yet waited for."""
    from harness.load.hosts.coordinator import DEFAULT_BIND, LoadHosts

    if expected is None:
        if bind is not None:
            raise UsageError("--bind is for --expect-workers N; name how many load workers will come")
        return None
    if resolved.scenario.workload.locustfile is not None:
        raise UsageError(
            f"{resolved.path}: workload.locustfile runs on this host only: no code is sent to load workers; "
            "leave --expect-workers out"
        )
    return LoadHosts(expected, bind or DEFAULT_BIND, wait_s, say=lambda text: click.echo(text, err=True))


@contextmanager
def shown_load(port: int | None) -> Iterator[WebUi | None]:
    """The page of the live load, where it was asked for; its address is printed at once."""
    from harness.load.web_ui.launch import WebUi

    if port is None:
        yield None
        return
    with WebUi(port) as web_ui:
        click.echo(f"Locust's web UI of the live load, read-only: {web_ui.url}", err=True)
        yield web_ui
