"""`dyno serve`: runs the model server in the foreground, from a serving.properties file."""

from __future__ import annotations

from pathlib import Path

import click

from engines.server.serve import ServeOptions, serve


@click.command(name="serve")
@click.option(
    "--properties",
    "properties_path",
    type=click.Path(path_type=Path),
    required=True,
    help="The serving.properties file, or the folder that holds it: DJL Serving's keys, as Java reads them.",
)
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path),
    help="Model folder; wins over option.model_id of the file.",
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
def command(properties_path: Path, model_dir: Path | None, host: str, port: int, model_name: str, drain_s: int) -> None:
    """Serve a model from a serving.properties file.

    The server implements SageMaker's container contract (/ping, /invocations), DJL's (/predictions/NAME) with DJL's
    queue, batch and worker rules, and OpenAI's (/v1/completions, /v1/chat/completions, /v1/models). It runs in the
    foreground and prints its address on standard error. Ctrl-C or SIGTERM finishes what is in flight; a second one
    ends it at once.

    \b
    Examples:
      dyno serve --properties results/local/RUN/recommendation
      dyno serve --properties serving.properties --model-dir ./flan-t5-base --port 0
      curl -s localhost:8080/invocations -d '{"inputs": "spell: 4213"}'
      curl -s localhost:8080/v1/completions -d '{"prompt": "spell: 4213", "temperature": 0}'
    """

    serve(
        ServeOptions(
            properties_path=properties_path / "serving.properties" if properties_path.is_dir() else properties_path,
            model_dir=model_dir,
            host=host,
            port=port,
            model_name=model_name,
            drain_s=drain_s,
        )
    )
