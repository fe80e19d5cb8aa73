"""The worker process on a load host, behind `dyno load-worker`: python -m harness.load.hosts.worker HOST PORT WAIT_S.

Joins a master, gets a plan and its parts of the schedule, runs the ordinary load processes on this host, and sends
their messages and records. It never gets code. It ends when its master does, or at once by a signal, and its processes
with it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import gevent
from gevent.event import Event
from locust.env import Environment

from engines.processes.temp_folders import owned_folder
from harness.errors import DynoError
from harness.load.hosts.message_auth import NONCE_BYTES, SECRET_VARIABLE, Seal
from harness.load.hosts.same_code import edition
from harness.load.plan import LoadPlan
from harness.load.processes import LoadProcesses

REPORT_S = 0.2
ALIVE_S = 1.0
SILENT_S = 10.0
"""A master that sends nothing for this long is gone; it sends once a second."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Worker:
    """One host's side of the conversation."""

    def __init__(self, environment: Any, host: str, port: int) -> None:
        self._nonce = secrets.token_hex(NONCE_BYTES)
        self._seal: Seal | None = None
        self._received_ns = time.monotonic_ns()
        self._load: gevent.Greenlet | None = None
        self._begin_ns: int | None = None
        self._last_word_ns = 0
        self.has_joined = Event()
        self._runner = environment.create_worker_runner(host, port)
        for kind in ("welcome", "refused"):
            self._runner.register_message(f"dyno-{kind}", getattr(self, f"on_{kind}"))
        for kind in ("load", "go", "stop", "ping", "beat", "bye"):
            self._runner.register_message(f"dyno-{kind}", self._on_sealed)
        self._runner.send_message("dyno-hello", {"nonce": self._nonce})

    def on_welcome(self, environment: Any, msg: Any) -> None:
        """The master's nonce: from now on every message is sealed."""
        self._seal = Seal(os.environ.get(SECRET_VARIABLE, ""), "worker", self._nonce, str(msg.data["nonce"]))
        boot, cores = BOOT_ID.read_text().strip(), os.cpu_count() or 1
        self._send("join", {"host": socket.gethostname(), "boot": boot, "cores": cores, "edition": edition()})
        self._received_ns = time.monotonic_ns()

    def on_refused(self, environment: Any, msg: Any) -> None:
        """The master does not know us, or runs another load generator."""
        _end(2, f"the master refused this worker: {(msg.data or {}).get('why', '')}")

    def watch(self) -> None:
        """Ends this process when the master is silent; reports that this worker lives."""
        while True:
            gevent.sleep(ALIVE_S)
            if time.monotonic_ns() - self._received_ns > SILENT_S * 1e9:
                self.stop()
                _end(3, f"nothing came from the master for {SILENT_S:g} s; start this command again for the next run")
            if self.has_joined.is_set() and time.monotonic_ns() - self._last_word_ns > ALIVE_S * 1e9:
                self._send("state", {})

    def _on_sealed(self, environment: Any, msg: Any) -> None:
        there_ns = time.monotonic_ns()
        if self._seal is None:
            return
        try:
            value = self._seal.unwrap(msg.type, msg.data)
        except ValueError as error:
            print(f"dyno: {msg.type} is not believed: {error}", file=sys.stderr, flush=True)
            return
        self._received_ns = there_ns
        self.has_joined.set()  # a master that refuses says nothing sealed
        if msg.type == "dyno-ping":
            self._send("pong", {"sent_ns": value["sent_ns"], "there_ns": there_ns})
        elif msg.type == "dyno-load":
            self.stop()
            self._begin_ns = None
            self._load = gevent.spawn(self._run, value)
        elif msg.type == "dyno-go":
            self._begin_ns = int(value["begin_ns"])
        elif msg.type == "dyno-stop":
            self.stop()
        elif msg.type == "dyno-bye":
            self.stop()
            _end(0, "the run is over; start this command again for the next one")

    def stop(self) -> None:
        """End the load, if one runs, with its processes and files."""
        if self._load is not None:
            self._load.kill()  # the context of its load processes ends them
            self._load = None

    def _send(self, kind: str, value: Any) -> None:
        assert self._seal is not None
        self._last_word_ns = time.monotonic_ns()
        self._runner.send_message(f"dyno-{kind}", self._seal.wrap(f"dyno-{kind}", value))

    def _run(self, order: dict[str, Any]) -> None:
        """One load; an error ends it, and is reported."""
        number = int(order["id"])
        try:
            plan = LoadPlan.from_json(order["plan"])
            if plan.locustfile:
                raise DynoError("a load worker runs no locustfile that comes over the network")
            print(f"load {number}: {len(order['parts'])} of {plan.processes} processes", file=sys.stderr, flush=True)
            self._drive(number, plan, [int(part) for part in order["parts"]])
        except (DynoError, OSError) as error:
            self._send("state", {"id": number, "error": f"{type(error).__name__}: {error}"})

    def _drive(self, number: int, plan: LoadPlan, parts: list[int]) -> None:
        with owned_folder("load") as folder:
            plan.write(folder / "plan.json")
            sent = {part: 0 for part in parts}
            is_begun = False
            with LoadProcesses(plan, folder, parts) as processes:
                while True:
                    processes.listen(REPORT_S)
                    processes.check()
                    if self._begin_ns is not None and not is_begun:
                        is_begun = True
                        processes.go(self._begin_ns)
                    is_over = len(processes.ended) == len(parts)
                    raw = {str(part): _new_bytes(folder / f"raw-{part}.jsonl", sent, part) for part in parts}
                    self._send("state", {"id": number, "raw": raw, **processes.state()})
                    if is_over:
                        return


def _new_bytes(path: Path, sent: dict[int, int], part: int) -> str:
    """What was written since the last call, as Latin-1."""
    try:
        with path.open("rb") as file:
            file.seek(sent[part])
            data = file.read()
    except FileNotFoundError:
        return ""
    sent[part] += len(data)
    return data.decode("latin-1")


def _end(code: int, text: str) -> NoReturn:
    print(f"dyno: {text}", file=sys.stderr, flush=True)
    os._exit(code)


def main(arguments: list[str]) -> None:
    """Work until the master ends."""
    host, port, wait_s = arguments[0], int(arguments[1]), float(arguments[2])
    logging.getLogger("locust").setLevel(logging.CRITICAL)
    joined: list[Worker] = []

    def leave() -> None:
        for worker in joined:
            worker.stop()
        _end(130, "interrupted; its load processes are ended")

    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, leave)
    print(f"waiting for a master at {host}:{port}, at most {wait_s:g} s", file=sys.stderr, flush=True)
    try:
        socket.getaddrinfo(host.strip("[]"), port)
    except OSError as error:
        _end(3, f"--master {host}:{port}: {error.strerror}")
    with gevent.Timeout(wait_s, False):
        joined.append(Worker(Environment(user_classes=[]), host, port))
        joined[0].has_joined.wait()
    if not joined or not joined[0].has_joined.is_set():
        _end(
            3, f"no master of dyno at {host}:{port} within {wait_s:g} s; start `dyno tune ... --expect-workers N` there"
        )
    print(f"joined the run at {host}:{port}", file=sys.stderr, flush=True)
    joined[0].watch()


if __name__ == "__main__":
    main(sys.argv[1:])
