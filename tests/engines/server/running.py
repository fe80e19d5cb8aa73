"""Starting the real server with the fake engine for a test, and talking to it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from engines.api import QueueOrder
from engines.hosted import HERE, RunningServer, serve_file
from tests.waiting import eventually

READY_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 60.0


@contextmanager
def fake_server(
    workdir: Path, order: QueueOrder = "fifo", **keys: object
) -> Iterator[tuple[RunningServer, httpx.Client]]:
    """The server with `engines.fake` and these serving.properties keys; '__' in a name stands for '.'."""
    values = {
        "option.entryPoint": "engines.fake",
        "load_on_devices": "-1",
        "option.dtype": "fp32",
        "max_batch_delay": 0,
    }
    values |= {name.replace("__", "."): str(value) for name, value in keys.items()}
    path = workdir / "serving.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    (workdir / "logs").mkdir(exist_ok=True)
    front = replace(HERE, queue_order=order)
    with serve_file(path, None, workdir / "logs", READY_TIMEOUT_S, front) as running:
        limits = httpx.Limits(max_connections=None)
        url = running.endpoint.url
        with httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S, trust_env=False, limits=limits) as client:
            yield running, client


def ask(client: httpx.Client, inputs: object = "a b", **parameters: object) -> httpx.Response:
    """POST /invocations."""
    return client.post("/invocations", json={"inputs": inputs, "parameters": parameters})


@contextmanager
def frozen_worker(running: RunningServer, client: httpx.Client) -> Iterator[Future[httpx.Response]]:
    """The only worker is stopped with one request in its hands until the context ends: whatever else is asked waits,
    however slow the machine. Gives that request's answer to come."""
    with ThreadPoolExecutor(1) as pool, stopped(running.pids[1]):
        first = pool.submit(ask, client, "first")
        eventually(lambda: client.get("/facts").json()["workers"][0]["state"] == "busy")
        yield first


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing until the context ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def ask_many(client: httpx.Client, texts: list[str]) -> list[httpx.Response]:
    """One request per text, all at once."""
    with ThreadPoolExecutor(len(texts)) as pool:
        return list(pool.map(lambda text: ask(client, text), texts))


def metric(client: httpx.Client, name: str) -> float:
    """One sample of /metrics, by its full name with labels."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    raise KeyError(name)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that waits for its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON lines of a streamed answer."""
    return [json.loads(line) for line in response.text.splitlines()]
