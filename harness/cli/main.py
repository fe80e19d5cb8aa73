"""The main command group `dyno`: imports a verb when used, prints errors as one sentence, sets exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import TextIO, cast

import click

from engines.nearest import nearest
from engines.processes.no_proxy import keep_direct
from harness.cli.broken_pipe import Outlet

VERBS = {
    "tune": "Search a scenario's space on real engines and recommend a measured configuration.",
    "report": "Print a stored run as the field's table, or write it as a page.",
    "import": "Read results of other tools into runs that report and gate read.",
    "export": "Hand a run's numbers to MLflow, OpenTelemetry, Prometheus or Weights & Biases.",
    "gate": "Judge a run against a baseline: pass, regressed, or cannot tell.",
    "recommend": "Choose from a stored run, explain why the others lost, write serving.properties.",
    "properties": "Check, compare, migrate and translate serving.properties files.",
    "deploy": "Put a recommendation on a SageMaker endpoint, measure it there, take it down again.",
    "serve": "Serve a model from a serving.properties file.",
    "partition": "Pack a model ahead of time for the bundled T5 engine.",
    "load-worker": "Lend this host's cores to the load of a `dyno tune` elsewhere.",
    "scenario": "Check, show or describe scenario files.",
    "engine": "Install, list and remove separate Python environments for engines.",
    "machines": "Show the machines of a cluster that can take trials.",
    "doctor": "Show what this machine can launch and measure, and why not the rest.",
}
"""Verb -> one line. Each verb lives in harness/cli/<verb>.py (a dash becomes an underscore) as `command`; here so that
--help imports none of them."""
_FILES = {"import": "import_results"}
"""Verbs that are no name of a Python module -> their file."""


def file_of(verb: str) -> str:
    """The module beside this one that has the verb."""
    return _FILES.get(verb, verb.replace("-", "_"))


class LazyGroup(click.Group):
    """A group whose verbs are imported only when they run, so that `dyno --help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"harness.cli.{file_of(cmd_name)}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = nearest(args[0], VERBS)
            if near:
                raise click.UsageError(f"{error.message.rstrip('.')}; did you mean {near!r}?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dynamometer", prog_name="dyno")
@click.option("--debug", is_flag=True, envvar="DYNO_DEBUG", help="Show the traceback of an error.")
@click.pass_context
def dyno(ctx: click.Context, debug: bool) -> None:
    """A test bench for inference engines.

    Launches real engines, drives them, checks their answers, searches the configuration space, and ends with a
    serving.properties that was itself measured.

    \b
    Examples:
      dyno tune scenarios/quickstart.yaml
      dyno report latest
      dyno recommend latest --container dynamometer-0.1 --verify

    Shell completion: eval "$(_DYNO_COMPLETE=bash_source dyno)"
    """
    ctx.obj = {"debug": debug}


def main() -> None:
    """Run `dyno` and exit with its code (house style 35)."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """The exit code of `dyno ARGS`. One of the three places where any exception is caught (house style 20)."""
    wants_traceback = "--debug" in args or bool(os.environ.get("DYNO_DEBUG"))
    keep_direct()
    with redirect_stdout(cast(TextIO, Outlet(sys.stdout))), redirect_stderr(cast(TextIO, Outlet(sys.stderr))):
        try:
            return _run(args, wants_traceback)
        finally:
            sys.stdout.flush()


def _run(args: list[str], wants_traceback: bool) -> int:
    try:
        result = dyno.main(args=args, prog_name="dyno", standalone_mode=False)
    except click.exceptions.Abort:
        return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return 2
    except Exception as error:
        if wants_traceback:
            traceback.print_exc()
        return _explain(error)
    return result if isinstance(result, int) else 0


def _interrupted() -> int:
    click.echo("dyno: interrupted", err=True)
    return 130


def _explain(error: Exception) -> int:
    from engines.errors import EngineError
    from harness.errors import DynoError, Interrupted

    if isinstance(error, Interrupted):
        click.echo(str(error), err=True)
        return error.exit_code
    if isinstance(error, DynoError):
        click.echo(f"dyno: {error}", err=True)
        return error.exit_code
    if isinstance(error, EngineError | OSError | MemoryError):
        click.echo(f"dyno: {error or type(error).__name__}", err=True)
        return 3
    click.echo(f"dyno: internal error: {type(error).__name__}: {error}", err=True)
    click.echo("dyno: run it again as `dyno --debug ...` and report what it prints", err=True)
    return 3


if __name__ == "__main__":
    main()
