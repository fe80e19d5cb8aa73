"""Locust's master process for several load hosts, started beside `dyno tune`.

It carries messages between dyno (JSON lines on stdin and stdout) and the workers (Locust's master/worker protocol, each
message sealed), and measures how their clocks stand. It holds no schedule and no records. It ends when its parent does.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import time
from typing import Any

import gevent
from gevent.queue import Empty, Queue
from locust.env import Environment
from locust.rpc import rpc

from engines.processes.supervisor import dies_with
from harness.load.client.connection_pool import watch_parent
from harness.load.hosts.message_auth import NONCE_BYTES, SECRET_VARIABLE, Seal
from harness.load.hosts.same_code import edition

PINGS = 20
"""Round trips per clock reading; the shortest one bounds the offset best (Cristian 1989)."""
PING_TIMEOUT_S = 2.0
HEARTBEAT_S = 1.0
SILENT_S = 5.0
"""A worker that sends nothing for this long is gone: it sends at least once a second."""
FLUSH_S = 0.3
"""What the last messages get to leave this host."""


class Hub:
    """The workers that have joined, by Locust's client id."""

    def __init__(self, runner: Any, secret: str) -> None:
        self._runner = runner
        self._secret = secret
        self._greeted: dict[str, Seal] = {}
        self._received_ns: dict[str, int] = {}
        self._facts: dict[str, Any] = {}
        self._lost: dict[str, Any] = {}
        self._pongs: dict[str, Queue[tuple[int, int, int]]] = {}
        for kind in ("hello", "join", "state", "pong"):
            runner.register_message(f"dyno-{kind}", getattr(self, f"on_{kind}"))

    def on_hello(self, environment: Any, msg: Any) -> None:
        """A worker's nonce comes in; ours goes out."""
        nonce, own = str((msg.data or {}).get("nonce", "")), secrets.token_hex(NONCE_BYTES)
        self._greeted[msg.node_id] = Seal(self._secret, "master", nonce, own)
        self._facts.pop(msg.node_id, None)
        self._lost.pop(msg.node_id, None)
        self._runner.send_message("dyno-welcome", {"nonce": own}, client_id=msg.node_id)

    def on_join(self, environment: Any, msg: Any) -> None:
        """A worker proves that it knows the secret, and reports its host and what it runs."""
        facts = self._open("dyno-join", msg)
        why = f"{SECRET_VARIABLE} is not the same on both hosts"
        if facts is not None and facts.get("edition") != edition():
            why = f"it runs dynamometer {facts.get('edition', 'of an older version')}, this host runs {edition()}"
        elif facts is not None:
            why = ""
        if why:
            self._runner.send_message("dyno-refused", {"why": why}, client_id=msg.node_id)
            publish({"refused": msg.node_id, "why": why})
            return
        self._facts[msg.node_id], self._pongs[msg.node_id] = facts, Queue()
        self._publish_workers()

    def on_state(self, environment: Any, msg: Any) -> None:
        """What a worker's load processes did since its last message."""
        state = self._open("dyno-state", msg)
        if state is not None and msg.node_id in self._lost:  # its cable is back
            self._facts[msg.node_id] = self._lost.pop(msg.node_id)
            self._publish_workers()
        if state is not None and msg.node_id in self._facts:
            publish({"state": msg.node_id, **state})

    def on_pong(self, environment: Any, msg: Any) -> None:
        """A clock reading comes back."""
        back_ns = time.monotonic_ns()
        pong = self._open("dyno-pong", msg)
        if pong is not None and msg.node_id in self._pongs:
            self._pongs[msg.node_id].put((int(pong["sent_ns"]), int(pong["there_ns"]), back_ns))

    def receive(self, order: dict[str, Any]) -> None:
        """An order of dyno's: 'clock', or a message for one worker."""
        if order["do"] == "clock":
            gevent.spawn(self._read_clocks, order["workers"])
        else:
            self._send(order["to"], f"dyno-{order['do']}", order["value"])

    def heartbeat(self) -> None:
        """Once a second: report that the master lives, and notice who does not."""
        while True:
            gevent.sleep(HEARTBEAT_S)
            limit_ns = time.monotonic_ns() - int(SILENT_S * 1e9)
            gone = [each for each in self._facts if self._received_ns[each] < limit_ns]
            for each in gone:
                self._lost[each] = self._facts.pop(each)
            if gone:
                self._publish_workers()
            for each in (*self._facts, *self._lost):
                self._send(each, "dyno-beat", {})

    def close(self) -> None:
        """The run is over: the workers need not find out by silence."""
        for each in (*self._facts, *self._lost):
            self._send(each, "dyno-bye", {})
        gevent.sleep(FLUSH_S)
        os._exit(0)

    def _read_clocks(self, workers: list[str]) -> None:
        publish({"clocks": {each: self._offset(each) for each in workers}})

    def _offset(self, worker: str) -> list[int] | None:
        """[offset of the worker's monotonic clock from ours, how wrong that may be], ns; None when it is silent.

        The reading was made somewhere in the round trip, so the middle is wrong by at most half of it.
        """
        pongs, best = self._pongs.get(worker), None
        if pongs is None:
            return None
        while not pongs.empty():
            pongs.get()
        for _ in range(PINGS):
            self._send(worker, "dyno-ping", {"sent_ns": time.monotonic_ns()})
            try:
                sent_ns, there_ns, back_ns = pongs.get(timeout=PING_TIMEOUT_S)
            except Empty:
                return None
            if best is None or back_ns - sent_ns < 2 * best[1]:
                best = [there_ns - (sent_ns + back_ns) // 2, (back_ns - sent_ns + 1) // 2]
        return best

    def _send(self, worker: str, kind: str, value: Any) -> None:
        if worker in self._greeted:
            self._runner.send_message(kind, self._greeted[worker].wrap(kind, value), client_id=worker)

    def _open(self, kind: str, msg: Any) -> Any:
        """The sealed value, or None: what cannot be opened is nobody's word."""
        seal = self._greeted.get(msg.node_id)
        if seal is None:
            return None
        try:
            value = seal.unwrap(kind, msg.data)
        except ValueError as error:
            print(f"{msg.node_id}: {kind}: {error}", file=sys.stderr, flush=True)
            return None
        self._received_ns[msg.node_id] = time.monotonic_ns()
        return value

    def _publish_workers(self) -> None:
        publish({"workers": self._facts})


_output = [1]
"""The descriptor that dyno listens to."""


def publish(value: Any) -> None:
    """One JSON line to dyno, whole."""
    rest = json.dumps(value).encode("ascii") + b"\n"
    while rest:
        rest = rest[os.write(_output[0], rest) :]


def bind_fault(host: str, port: int) -> str:
    """Why nothing can listen there; '' when it can. ZeroMQ's own words name neither."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return str(error.strerror)
    return ""


def main(arguments: list[str]) -> None:
    """Serve until the parent ends."""
    host, port, parent_pid = arguments
    if not dies_with(int(parent_pid)):
        sys.exit(1)
    _output[0] = os.dup(1)
    os.dup2(2, 1)  # Locust prints to stdout
    if fault := bind_fault(host, int(port)):
        publish({"error": fault})
        return
    logging.getLogger("locust").setLevel(logging.ERROR)
    try:
        runner = Environment(user_classes=[]).create_master_runner(host, int(port))
    except (SystemExit, rpc.RPCError, OSError) as error:
        publish({"error": str(error) if not isinstance(error, SystemExit) else "the port is in use"})
        return
    hub = Hub(runner, os.environ.get(SECRET_VARIABLE, ""))
    publish({"bound": runner.server.port})
    gevent.spawn(hub.heartbeat)
    watch_parent(lambda line: hub.receive(json.loads(line)), hub.close)


if __name__ == "__main__":
    main(sys.argv[1:])
