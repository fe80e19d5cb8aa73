"""`dyno load-worker`: lends this host's cores to the load of a `dyno tune --expect-workers N` elsewhere."""

from __future__ import annotations

import os
import sys

import click

from harness.errors import UsageError
from harness.load.child_process import child_env
from harness.load.hosts.coordinator import bind_address


@click.command(
    "load-worker",
    epilog="Exit codes: 0 the run is over, 2 usage, a wrong secret or another version, 3 no master there or it fell "
    "silent, 130 interrupted.",
)
@click.option("--master", required=True, metavar="HOST:PORT", help="Address that `dyno tune --bind` listens on.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0, min_open=True), default=60.0, metavar="SECONDS",
    help="Seconds to wait for the master (default 60).",
)  # fmt: skip
def command(master: str, wait_s: float) -> None:
    """Serve as one of the load hosts of a `dyno tune ... --expect-workers N`.

    The worker gets parts of a schedule that was fixed before the run, sends those requests from here, and hands back
    the raw records. The worker ends with the run. Both hosts must run the same version. Beyond loopback both sides
    need the same secret in DYNO_LOAD_SECRET: whoever knows it can make this host send requests to any address it can
    reach.

    \b
    Examples:
      dyno load-worker --master 127.0.0.1:5557
      DYNO_LOAD_SECRET=... dyno load-worker --master bench-1:5557 --wait 300
    """

    try:
        host, port = bind_address(master)
    except UsageError as error:
        raise UsageError(f"--master: {error}") from error
    # In place of this process: Locust patches the one that imports it, and a signal reaches it without a middleman.
    argv = [sys.executable, "-P", "-m", "harness.load.hosts.worker", host, str(port), str(wait_s)]
    os.execve(sys.executable, argv, child_env())  # noqa: S606  no shell is wanted
