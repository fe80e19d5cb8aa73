"""The server process of Locust's read-only web UI: python -m harness.load.web_ui.server PORT PARENT_PID.

Lines of JSON on stdin name the load to show (see launch.py); its files are read as they grow. The UI's percentiles are
Locust's, rounded for showing: no number of a run comes from here. It ends when its parent does.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engines.processes.supervisor import dies_with

POLL_S = 0.5
NICENESS = 15
"""A page for looking at must not take the CPU from what is measured."""
READABLE = frozenset(
    {"/", "/stats/requests", "/stats/requests/csv", "/stats/failures/csv", "/stats/report", "/exceptions",
     "/exceptions/csv", "/tasks", "/logs", "/worker-count"}
)  # fmt: skip
HOSTS = frozenset({"127.0.0.1", "localhost"})
"""Names this page answers to: a foreign name that was made to point here (DNS rebinding) is refused."""
REFUSAL = (
    "This page shows a load of Dynamometer and cannot change it: the schedule was fixed before the run. "
    "Interrupt dyno itself to stop it.\n"
)


class Tail:
    """What the load processes have written since it was last asked for: (user, is_warmup, name, ms, bytes, error)."""

    def __init__(self, folder: Path, is_own: bool) -> None:
        self._folder = folder
        self._is_own = is_own
        self._files: dict[Path, tuple[Any, bytes]] = {}

    def rows(self) -> Iterator[tuple[int, bool, str, float, int, str]]:
        """New rows, file by file; a line that is still being written waits for its end."""
        for path in sorted(self._folder.glob("raw-*.jsonl")):
            if path not in self._files:
                self._files[path] = (path.open("rb"), b"")
        for path, (file, rest) in list(self._files.items()):
            *lines, rest = (rest + file.read()).split(b"\n")
            self._files[path] = (file, rest)
            for line in lines:
                yield self._own(line) if self._is_own else self._ours(line)

    def close(self) -> None:
        """Close the files; the driver removes them."""
        for file, _ in self._files.values():
            file.close()

    @staticmethod
    def _ours(line: bytes) -> tuple[int, bool, str, float, int, str]:
        from harness.load.client.raw_records import raw_from_line

        raw = raw_from_line(line)
        error = raw.error or raw.failure or ("" if raw.is_answered else f"HTTP {raw.status_code}")
        return raw.user, raw.is_warmup, "", (raw.done_ns - raw.intended_ns) / 1e6, len(raw.body), error

    @staticmethod
    def _own(line: bytes) -> tuple[int, bool, str, float, int, str]:
        from harness.load.user_locustfile.events import fired_from_line

        one = fired_from_line(line)
        error = one.error or one.failure
        return one.user, not one.is_measured, one.name, (one.done_ns - one.sent_ns) / 1e6, 0, error


def serve(port: int) -> None:
    """Bind, report ready, and show what stdin names until it ends."""
    try:
        bound = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        print(f"error port {port} of 127.0.0.1: {os.strerror(error.errno or 0)}", flush=True)
        return
    number = bound.getsockname()[1]
    os.nice(NICENESS)
    import gevent
    from locust import User, constant, task  # patches this process
    from locust.env import Environment
    from locust.runners import STATE_RUNNING, STATE_STOPPED, LocalRunner
    from locust.stats import stats_history

    from harness.load.client.connection_pool import watch_parent

    class LoadUser(User):  # type: ignore[misc]
        """Stands for the users that live in the load processes; none is ever spawned here."""

        wait_time = constant(1)

        @task  # type: ignore[untyped-decorator]
        def live(self) -> None:
            """Never runs."""

    class Watched(LocalRunner):  # type: ignore[misc]
        """A runner that shows how many users others have."""

        shown_users = 0

        @property
        def user_count(self) -> int:
            return self.shown_users

    environment = Environment(user_classes=[LoadUser], host="")
    runner = environment.runner = Watched(environment)
    environment.runner.state = STATE_STOPPED
    ui = environment.create_web_ui("127.0.0.1", number, delayed_start=True)
    _make_read_only(ui.app)
    show = _Show(environment, runner, STATE_RUNNING)
    gevent.spawn(stats_history, runner)
    gevent.spawn(_serve_pages, number, ui.app, bound.detach())
    print(f"ready {number}", flush=True)
    gevent.spawn(_repeat, show.step)
    watch_parent(lambda line: show.begin(json.loads(line)), lambda: os._exit(0))


def _serve_pages(number: int, app: Any, descriptor: int) -> None:
    from gevent import pywsgi
    from gevent import socket as green

    listener = green.socket(fileno=descriptor)
    listener.setblocking(False)
    pywsgi.WSGIServer(listener, app, log=None).serve_forever()


def _repeat(step: Any) -> None:
    import gevent

    while True:
        step()
        gevent.sleep(POLL_S)


def _make_read_only(app: Any) -> None:
    """Whatever is no reading of this page is refused with a sentence."""
    from flask import make_response, request

    app.debug = False

    def refuse() -> Any:
        name = request.host.rpartition(":")[0] or request.host
        is_read = request.method in ("GET", "HEAD", "OPTIONS")
        is_known = request.path in READABLE or request.path.startswith("/assets/")
        if name in HOSTS and is_read and is_known:
            return None
        return make_response(REFUSAL, 403)

    app.before_request(refuse)


class _Show:
    """The load on show, and its part of Locust's statistics."""

    def __init__(self, environment: Any, runner: Any, running: str) -> None:
        self._environment = environment
        self._runner = runner
        self._running = running
        self._tail: Tail | None = None
        self._facts: dict[str, Any] = {}
        self._users: set[int] = set()

    def begin(self, facts: dict[str, Any]) -> None:
        """Another load: empty statistics."""
        if self._tail is not None:
            self._tail.close()
        self._tail, self._facts, self._users = Tail(Path(facts["folder"]), facts["is_own"]), facts, set()
        self._environment.host = f"{facts['endpoint']} ({facts['title']})"
        self._environment.stats.clear_all()
        self._runner.state = self._running

    def step(self) -> None:
        """Take in what was written meanwhile."""
        if self._tail is None:
            return
        path = urlsplit(self._facts["endpoint"]).path or "/"
        stats = self._environment.stats
        for user, is_warmup, name, took_ms, length, error in self._tail.rows():
            self._users.add(user)
            kind, _, rest = (name or f"POST {path}").partition(" ")
            shown = f"{rest} (warm-up)" if is_warmup else rest
            stats.log_request(kind, shown, took_ms, length)
            if error:
                stats.log_error(kind, shown, error)
        self._runner.shown_users = len(self._users)


def main(arguments: list[str]) -> None:
    """Serve until the parent ends."""
    port, parent_pid = (int(argument) for argument in arguments)
    if not dies_with(parent_pid):
        sys.exit(1)
    serve(port)


if __name__ == "__main__":
    main(sys.argv[1:])
