"""The health of a DJL Serving, from its own paths and its log: ready, still loading, or failed and why."""

from __future__ import annotations

import json
import re
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engines.hosted import HOST
from engines.processes.no_proxy import open_here

FROM_WORKER = re.compile(r"\bW-\d+-\S*?-?std(?:out|err): ?(.*)")
"""A line of the server's log that a Python worker wrote."""
BIND_FAILED = "Failed to bind to address"
"""In the server's log (its ModelServer class) where somebody else listens on its port; the process then ends with 1."""
SEARCHED_LINES = 400
_SHOWN_LINES = 6
_LOOK_S = 5.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Its console log is coloured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The result of one look at the server: ready, still loading, or failed for good (with why)."""

    is_ready: bool
    failure: str = ""


def health(ping: int | None, described: object, workers: int) -> Health:
    """The verdict on a /ping status (None: not listening) and the body of GET /models/<model>.

    The port opens once the model is loaded, and the process ends where it cannot be. /ping: 200 while Healthy or
    Unhealthy (no worker yet), 500 once the model has failed for good. The body is a list of workflows, each with a
    list of models; before 0.17 it was one model.
    """
    models = list(_models(described))
    if why := _why_failed(ping):
        return Health(is_ready=False, failure=why)
    if any(str(model.get("status")).upper() == "FAILED" for model in models):
        return Health(is_ready=False, failure="GET /models answers FAILED: the model failed")
    ready = sum(
        isinstance(worker, dict) and worker.get("status") == "READY"
        for model in models for group in _dicts(model.get("workerGroups")) for worker in _dicts(group.get("workers"))
    )  # fmt: skip
    return Health(is_ready=ping == 200 and ready >= workers)


def look(port: int, model: str, workers: int) -> Health:
    """One look at the server on that loopback port; never raises."""
    ping, _ = _get(port, "/ping")
    code, body = _get(port, f"/models/{model}") if ping is not None else (None, "")
    try:
        described = json.loads(body) if code == 200 else []
    except ValueError:
        described = []
    return health(ping, described, workers)


def ping_failure(port: int) -> str:
    """Why the model of the server on that loopback port has failed for good; '' where it has not. Never raises."""
    return _why_failed(_get(port, "/ping")[0])


def last_words(log: str) -> str:
    """The last lines of the server's log that a Python worker wrote, else the log's own last lines."""
    lines = _COLOURS.sub("", log).splitlines()
    written = [found.group(1) for line in lines if (found := FROM_WORKER.search(line)) and found.group(1).strip()]
    return "\n".join(written[-_SHOWN_LINES:]) or "\n".join(lines[-_SHOWN_LINES:])


def _why_failed(ping: int | None) -> str:
    return f"/ping answers {ping}: the model failed" if ping in (500, 503) else ""


def _models(described: object) -> Iterator[dict[str, Any]]:
    for entry in _dicts(described if isinstance(described, list) else [described]):
        yield from _dicts(entry["models"]) if "models" in entry else [entry]


def _dicts(values: object) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _get(port: int, path: str) -> tuple[int | None, str]:
    try:
        with open_here(f"http://{HOST}:{port}{path}", _LOOK_S) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return None, ""
