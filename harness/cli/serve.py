"""`dyno serve`: runs a model server in the foreground, from a serving.properties file or a start script."""

from __future__ import annotations

import time
from pathlib import Path

import click

from engines.api import START_FILE
from engines.foreign_servers.starting.start_script import served_script
from engines.server.serve import ServeOptions, serve
from harness.cli.signals import stopped_by_signals
from harness.errors import UsageError
from harness.properties.containers import parse_container
from harness.properties.queue_order import queue_order
from harness.properties.render import PROPERTIES
from harness.properties.write import written_for

LOOK_S = 0.2


@click.command(name="serve")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--properties",
    "properties_path",
    type=click.Path(path_type=Path),
    help="The same as PATH: the serving.properties file (DJL Serving's keys, as Java reads them), or its folder.",
)
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path),
    help="Model folder; wins over option.model_id of the file.",
)
@click.option(
    "--container",
    metavar="VERSION",
    help="Take waiting requests as that container's server does, such as 0.36.0-lmi20 (default: the container that the "
    "file's recommendation.json names, else dynamometer-0.1: first in, first out).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 takes any free one."
)
@click.option(
    "--name", "model_name", default="model", show_default=True, help="The model's name in /predictions/NAME and /v1."
)
@click.option(
    "--drain-s",
    type=click.IntRange(0, 3600),
    default=30,
    show_default=True,
    help="Seconds that requests in flight may still take after SIGTERM or Ctrl-C.",
)
def command(
    path: Path | None,
    properties_path: Path | None,
    model_dir: Path | None,
    container: str | None,
    host: str,
    port: int,
    model_name: str,
    drain_s: int,
) -> None:
    """Serve a model from a serving.properties file, or by the start.sh of a recommendation.

    PATH is the file, or the folder that holds it. From serving.properties our server starts. It implements SageMaker's
    container contract (/ping, /invocations), DJL's (/predictions/NAME) with DJL's queue, batch and worker rules, and
    OpenAI's (/v1/completions, /v1/chat/completions, /v1/models). From start.sh the measured server of another project
    starts (vLLM, llama.cpp), on --host and --port and with the model called --name; its log is server.log beside the
    script. It runs in the foreground and prints its address on standard error. Ctrl-C or SIGTERM finishes what is in
    flight; a second one ends our server at once.

    \b
    Examples:
      dyno serve results/local/RUN/recommendation
      dyno serve --properties serving.properties --model-dir ./flan-t5-base --port 0
      dyno serve serving.properties --container 0.36.0-lmi20     (the newest waiting request first, as there)
      curl -s localhost:8080/invocations -d '{"inputs": "spell: 4213"}'
      curl -s localhost:8080/v1/completions -d '{"prompt": "spell: 4213", "temperature": 0}'
    """
    file = _file(path, properties_path)
    if file.name.endswith(".sh"):
        if model_dir is not None or container is not None:
            option = "--container" if model_dir is None else "--model-dir"
            raise UsageError(f"{option} belongs to {PROPERTIES}: {file} starts a server that knows its own")
        _serve_script(file, host, port, model_name)
        return
    serve(
        ServeOptions(
            properties_path=file,
            model_dir=model_dir,
            host=host,
            port=port,
            model_name=model_name,
            drain_s=drain_s,
            queue_order=queue_order(parse_container(container or written_for(file.parent))),
        )
    )


def _file(path: Path | None, properties_path: Path | None) -> Path:
    """What is to be served: a folder's serving.properties, or else its start script. Raises UsageError."""
    given = path or properties_path
    if given is None or (path and properties_path):
        raise UsageError("serve: expected one PATH: a serving.properties, a start.sh, or the folder that holds it")
    if not given.is_dir():
        return given
    has_only_script = (given / START_FILE).is_file() and not (given / PROPERTIES).exists()
    return given / (START_FILE if has_only_script else PROPERTIES)


def _serve_script(script: Path, host: str, port: int, name: str) -> None:
    """Until Ctrl-C or SIGTERM, or until it ends by itself. Raises EngineError."""
    if not script.is_file():
        raise UsageError(f"{script}: no such file; `dyno recommend` writes one for a winner with its own server")
    try:
        with stopped_by_signals(), served_script(script, address=host, port=port, name=name) as (process, url):
            click.echo(f"listening on {url}, OpenAI's protocol, model {name!r}", err=True)
            while process.exit_code() is None:
                time.sleep(LOOK_S)
            raise process.ended_error()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
