"""Entry point `python -m engines.server --properties FILE`: the model server without the harness."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from engines.api import QueueOrder
from engines.errors import EngineError
from engines.server.serve import ServeOptions, serve


def main() -> int:
    """Exit code: 0 after a clean drain, 3 when it could not serve (one sentence on standard error)."""
    parser = argparse.ArgumentParser(prog="python -m engines.server", description=__doc__)
    parser.add_argument("--properties", type=Path, required=True, help="serving.properties file")
    parser.add_argument("--model-dir", type=Path, help="model folder; wins over option.model_id")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0: any free port")
    parser.add_argument("--name", default="model", help="the model's name in /predictions/<name> and /v1")
    parser.add_argument("--state-file", type=Path, help="JSON file kept up to date for whoever launched this")
    parser.add_argument(
        "--queue-order", choices=get_args(QueueOrder), default="fifo", help="how waiting requests are taken"
    )
    parser.add_argument("--drain-s", type=int, default=30, help="seconds for requests in flight after SIGTERM")
    args = parser.parse_args()
    options = ServeOptions(
        properties_path=args.properties,
        model_dir=args.model_dir,
        host=args.host,
        port=args.port,
        model_name=args.name,
        state_path=args.state_file,
        drain_s=args.drain_s,
        queue_order=args.queue_order,
    )
    try:
        serve(options)
    except EngineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
