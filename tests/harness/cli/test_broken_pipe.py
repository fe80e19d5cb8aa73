"""Whoever reads the output may leave; the command ends as it would have."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.broken_pipe import Outlet

ROOT = Path(__file__).parents[3]

PROGRAM = """
import sys
from harness.cli import main as cli
import click

@cli.dyno.command("talk")
def talk():
    from rich.console import Console
    for _ in range(2000):
        click.echo("a line of a long table " * 4)
    Console().print("and rich's own")
    click.echo("to the end", err=True)
    return 4

cli.VERBS["talk"] = "..."
cli.LazyGroup.get_command = lambda self, ctx, name: talk
sys.exit(cli.run(["talk"]))
"""


@pytest.mark.heavy
@pytest.mark.parametrize("error_goes_too", [False, True])
def test_the_exit_code_outlives_the_reader(error_goes_too: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    error = write if error_goes_too else subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=write, stderr=error, cwd=ROOT, text=True) as process:
        os.close(write)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 4
    assert error_goes_too or message == "to the end\n", "nothing of a broken pipe is said"


def test_a_full_disk_is_not_taken_for_a_reader_that_left() -> None:
    with open("/dev/full", "w") as full:
        outlet = Outlet(full)
        outlet.write("x")
        with pytest.raises(OSError) as caught:
            outlet.flush()
        assert caught.value.errno == errno.ENOSPC
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
