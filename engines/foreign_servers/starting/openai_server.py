"""Questions to a foreign server with OpenAI's protocol about itself, and the wait for one that serves *our* model."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from engines.errors import PortTaken
from engines.hosted import HOST
from engines.processes.http_look import http_status
from engines.processes.no_proxy import open_here
from engines.processes.server_process import ServerProcess


def wait_for_model(process: ServerProcess, port: int, names: Sequence[str], timeout_s: float) -> None:
    """Return once the server on `port` is healthy and serves a model called one of `names`.

    Raises PortTaken where another server answers there, and what ServerProcess.wait_for raises.
    """

    def is_ready() -> bool | None:
        if http_status(f"http://{HOST}:{port}/health") != 200:
            return None
        models = get_json(port, "/v1/models")
        if models is None and process.exit_code() is not None:
            return None  # it was ours that was healthy, and why it has ended is known to `wait_for`
        served = model_names(models)
        if not set(served) & set(names):
            served = pinned_model(port) or served
        if not set(served) & set(names):
            raise PortTaken(
                f"another server answers on port {port}: it serves "
                f"{', '.join(served) or 'no model'}, expected {names[0]}; stop it, or start again"
            )
        return True

    process.wait_for(is_ready, timeout_s, f"model on port {port}")


def pinned_model(port: int) -> tuple[str, ...]:
    """The one model that transformers' server is pinned to, which only its refusal of another name states: its list of
    models is that of the user's download cache. A request without a message is never computed."""
    try:
        post_json(port, "/v1/chat/completions", {"model": "which-one", "messages": []}, 5.0)
    except (OSError, ValueError) as error:
        return tuple(re.findall(r"Server is pinned to '([^']+)'", str(error)))
    return ()


def model_names(models: object) -> tuple[str, ...]:
    """The names in the body of GET /v1/models: each model's id, and its root where it has one."""
    entries = models.get("data") if isinstance(models, dict) else None
    found = [entry.get(key) for entry in entries or () if isinstance(entry, dict) for key in ("id", "root")]
    return tuple(dict.fromkeys(name for name in found if isinstance(name, str)))


def get_json(port: int, path: str, timeout_s: float = 5.0) -> Any:
    """The JSON body of GET `path`; None where there is none."""
    try:
        with open_here(f"http://{HOST}:{port}{path}", timeout_s) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError):
        return None


def post_json(port: int, path: str, body: Mapping[str, object], timeout_s: float = 60.0) -> Any:
    """The JSON body that answers POST `path`. Raises OSError and ValueError."""
    request = urllib.request.Request(
        f"http://{HOST}:{port}{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with open_here(request, timeout_s) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise OSError(f"HTTP {error.code}: {error.read(500).decode(errors='replace')}") from error
