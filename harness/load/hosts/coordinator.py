"""The coordinator of several load hosts: waits for them, splits one schedule, collects their records on one clock.

Locust's master is in master.py; this file never imports Locust. A schedule is fixed before the run: every host
gets the whole of it and sends its parts, counted from one start instant in its own clock; no host steers another.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import selectors
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit

from harness.errors import EnvironmentFault, MeasurementInvalid, UsageError
from harness.load.child_process import begin_child, end_child
from harness.load.hosts.message_auth import SECRET_VARIABLE
from harness.load.plan import LoadPlan
from harness.load.processes import ProcessWords
from harness.measure.doubts import LAG_MIN_MS, VOID_LAG_MIN_MS
from harness.records import Doubt
from harness.units import NS_PER_MS, NS_PER_S

DEFAULT_BIND = "127.0.0.1:5557"
"""Loopback, and Locust's own port."""
GO_DELAY_NS = NS_PER_S
"""The window opens this long after the start instant was sent, so that every host has it in time."""
CLOCK_TIMEOUT_S = 60.0
CLOSE_S = 2.0
"""Time that the hub gets to close the connections to the workers."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def bind_address(text: str) -> tuple[str, int]:
    """(host, port) of 'HOST:PORT'. Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"expected HOST:PORT such as {DEFAULT_BIND}, got {text!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """An address, or the name, of this very machine that no other can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name
        return False


class LoadHosts:
    """`expected` workers behind a hub on `bind`; a context, which ends the hub (and the workers notice).

    Entering waits for the workers, at most `wait_s`. Raises UsageError for an open address without a secret,
    EnvironmentFault when the address is taken or workers do not come.
    """

    def __init__(self, expected: int, bind: str, wait_s: float, *, announce: Any) -> None:
        self.expected = expected
        self._host, self._port = bind_address(bind)
        self._wait_s = wait_s
        self._announce = announce
        self.workers: dict[str, dict[str, Any]] = {}
        self._refused: dict[str, str] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._selector = selectors.DefaultSelector()
        self._rest = b""
        self._load: RemoteProcesses | None = None
        self._clocks: dict[str, tuple[int, int] | None] | None = None
        self._loads = 0

    def __enter__(self) -> Self:
        if not is_loopback(self._host) and not os.environ.get(SECRET_VARIABLE):
            raise UsageError(
                f"--bind {self._host}:{self._port} can be reached by other machines, and Locust's protocol knows no "
                f"password: set {SECRET_VARIABLE} to the same long random text here and at every worker"
            )
        self._log = tempfile.TemporaryFile()
        self._child = begin_child(
            "harness.load.hosts.master", [self._host, str(self._port), str(os.getpid())], self._log
        )
        assert self._child.stdout is not None
        self._selector.register(self._child.stdout, selectors.EVENT_READ)
        try:
            self._wait(lambda: self._bound > 0, self._wait_s, "the hub of the load hosts did not start")
            self._announce(f"waiting for {self.expected} load worker(s): dyno load-worker --master {self._master}")
            self.require()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    _bound = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                child.stdin.close()
                child.wait(CLOSE_S)
            end_child(child)
            self._selector.close()
        if self._log is not None:
            self._log.close()

    @property
    def _master(self) -> str:
        """What the workers are to connect to: of an address that means all of them, this host's name."""
        host = socket.gethostname() if self._host.strip("[]") in ("0.0.0.0", "::") else self._host  # noqa: S104
        return f"{host}:{self._bound}"

    def require(self) -> None:
        """Wait until every expected worker is there. Raises EnvironmentFault when one does not come."""
        self._wait(
            lambda: len(self.workers) >= self.expected,
            self._wait_s,
            f"of {self.expected} load workers {{count}} came to {self._host}:{self._bound}; start `dyno load-worker "
            f"--master {self._master}` on the others, or lower --expect-workers{{refused}}",
        )

    def require_reach(self, endpoint_url: str) -> None:
        """Raises EnvironmentFault when a worker of another machine could not reach the endpoint."""
        here = BOOT_ID.read_text().strip()
        others = [facts["host"] for facts in self.workers.values() if facts["boot"] != here]
        if others and is_loopback(urlsplit(endpoint_url).hostname or ""):
            raise EnvironmentFault(
                f"endpoint {endpoint_url} is on this machine's loopback, load worker {others[0]} is another machine; "
                "load an endpoint that both reach (engine openai with the address of a server)"
            )

    def open(self, plan: LoadPlan, folder: Path) -> RemoteProcesses:
        """The load processes of `plan` on the workers; a context."""
        self.require()
        self.require_reach(plan.endpoint_url)
        self._loads += 1
        self._load = RemoteProcesses(self, plan, folder, self._loads)
        return self._load

    def send(self, to: str, do: str, value: Any) -> None:
        """A sealed message to one worker."""
        self._send({"do": do, "to": to, "value": value})

    def clocks(self, workers: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Worker -> (offset of its monotonic clock from ours, half of the shortest round trip), ns.

        Raises MeasurementInvalid when a worker does not answer."""
        self._clocks = None
        self._send({"do": "clock", "workers": list(workers)})
        self._wait(lambda: self._clocks is not None, CLOCK_TIMEOUT_S, "the load workers' clocks could not be read")
        found: dict[str, tuple[int, int]] = {}
        readings: Mapping[str, tuple[int, int] | None] = self._clocks or {}
        for worker, reading in readings.items():
            if reading is None:
                raise MeasurementInvalid(f"load worker {self.name_of(worker)} does not answer; look at its terminal")
            found[worker] = (int(reading[0]), int(reading[1]))
        return found

    def name_of(self, worker: str) -> str:
        """The host's name, and enough of its id to distinguish two."""
        return f"{worker[:-32]}{worker[-32:-26]}"

    def listen(self, wait_s: float) -> None:
        """Read the hub's messages, for at most `wait_s`."""
        assert self._child is not None
        assert self._child.stdout is not None
        if not self._selector.select(wait_s):
            return
        data = os.read(self._child.stdout.fileno(), 1 << 20)
        if not data:
            raise EnvironmentFault(
                "the hub of the load hosts ended; the same command again continues from here" + self._last_words()
            )
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._receive(json.loads(line))

    def _receive(self, word: dict[str, Any]) -> None:
        if "state" in word and self._load is not None:
            self._load.take(str(word["state"]), word)
        elif "workers" in word:
            before, self.workers = self.workers, word["workers"]
            for worker in self.workers.keys() - before.keys():
                facts = self.workers[worker]
                self._announce(f"load worker {self.name_of(worker)} is here: {facts['cores']} cores")
        elif "clocks" in word:
            self._clocks = word["clocks"]
        elif "refused" in word:
            name, why = self.name_of(str(word["refused"])), str(word["why"])
            self._refused[name] = why
            self._announce(f"load worker {name} was refused: {why}")
        elif "bound" in word:
            self._bound = int(word["bound"])
        elif "error" in word:
            raise EnvironmentFault(f"--bind {self._host}:{self._port}: {word['error']}; name another address")

    def _last_words(self) -> str:
        assert self._log is not None
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f"; its last words: {lines[-1]}" if lines else ""

    def _wait(self, is_there: Any, limit_s: float, otherwise: str) -> None:
        deadline_ns = time.monotonic_ns() + int(limit_s * NS_PER_S)
        while not is_there():
            self.listen(0.1)
            if time.monotonic_ns() > deadline_ns:
                refused = "".join(f"; {name} was refused: {why}" for name, why in self._refused.items())
                reason = otherwise.replace("{count}", str(len(self.workers))).replace("{refused}", refused)
                raise EnvironmentFault(f"after {limit_s:g} s: {reason}")

    def _send(self, value: Any) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `listen` reports a hub that ended
            self._child.stdin.write(json.dumps(value).encode("ascii") + b"\n")
            self._child.stdin.flush()


class RemoteProcesses(ProcessWords):
    """The load processes of one load, dealt to the workers part by part; their files are written here as they come."""

    def __init__(self, hosts: LoadHosts, plan: LoadPlan, folder: Path, number: int) -> None:
        super().__init__(plan.processes)
        self._hosts = hosts
        self._plan = plan
        self._folder = folder
        self._number = number
        self._workers = sorted(hosts.workers)[: hosts.expected]
        self._errors: dict[str, str] = {}
        self._before: Mapping[str, tuple[int, int]] = {}
        self._after: Mapping[str, tuple[int, int]] = {}

    def __enter__(self) -> RemoteProcesses:
        for place, worker in enumerate(self._workers):
            plan = replace(self._plan, host=place, hosts=len(self._workers))
            parts = [part for part in range(self.count) if part % len(self._workers) == place]
            self._hosts.send(worker, "load", {"id": self._number, "plan": plan.to_json(), "parts": parts})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            self._hosts.send(worker, "stop", {})

    def settle(self) -> int:
        """Read every clock; ns from now at which the window may open. Raises MeasurementInvalid when a clock cannot be
        read well enough for the start instants of two hosts to be one."""
        self._before = self._hosts.clocks(self._workers)
        for worker, (_, uncertain_ns) in self._before.items():
            if uncertain_ns > VOID_LAG_MIN_MS * NS_PER_MS:
                raise MeasurementInvalid(
                    f"load worker {self._hosts.name_of(worker)}: its clock is known to {uncertain_ns / NS_PER_MS:.1f} "
                    f"ms only (half of the shortest round trip; limit {VOID_LAG_MIN_MS:g} ms), so its requests would "
                    "leave late; use a host with a shorter way to this one"
                )
        return GO_DELAY_NS

    def go(self, begin_ns: int) -> None:
        """Open the measured window at `begin_ns` of our clock, which each worker gets in its own."""
        for worker in self._workers:
            self._hosts.send(worker, "go", {"begin_ns": begin_ns + self._before[worker][0]})

    def finish(self) -> None:
        """After the load: read the clocks again, for how far they moved."""
        self._after = self._hosts.clocks(self._workers)

    def listen(self, wait_s: float) -> None:
        """Read the workers' messages, for at most `wait_s`."""
        self._hosts.listen(wait_s)

    def check(self) -> None:
        """Raise MeasurementInvalid when a worker is gone, or one of its load processes failed."""
        for worker, error in self._errors.items():
            raise MeasurementInvalid(f"load worker {self._hosts.name_of(worker)}: {error}")
        for place, worker in enumerate(self._workers):
            is_done = all(part in self.ended for part in range(place, self.count, len(self._workers)))
            if worker not in self._hosts.workers and not is_done:
                raise MeasurementInvalid(
                    f"load worker {self._hosts.name_of(worker)} is gone in the middle of the load: nothing came "
                    "from it for 5 s, so part of the schedule was not sent; start it again, the search waits for it"
                )

    def take(self, worker: str, state: Mapping[str, Any]) -> None:
        """One worker's words about this load; of another load they are old."""
        if state.get("id") != self._number:
            return
        if "error" in state:
            self._errors[worker] = str(state["error"])
            return
        for part, text in state["raw"].items():
            if text:
                with (self._folder / f"raw-{int(part)}.jsonl").open("ab") as file:
                    file.write(text.encode("latin-1"))
        self.warm.update(state["warm"])
        self.done.update({int(part): int(done) for part, done in state["done"].items()})
        self.failed.update({int(part): int(failed) for part, failed in state["failed"].items()})
        self.busy_s.update({int(part): float(busy_s) for part, busy_s in state["busy_s"].items()})
        for part, pool in state["pools"].items():
            self.pools[int(part)] = (int(pool[0]), int(pool[1]), int(pool[2]))
        self.ended.update(state["ended"])

    def shift_ns(self, part: int) -> int:
        """What to add to a time of that part's host to have it on our clock."""
        offset_ns, _ = self._before.get(self._workers[part % len(self._workers)], (0, 0))
        return -offset_ns

    def notes(self) -> tuple[str, ...]:
        """Each host's clock: its offset, how well it is known, how far it moved during the load."""
        return tuple(self._clock_doubt(worker) for worker in self._workers if worker in self._before)

    def clock_doubts(self) -> tuple[Doubt, ...]:
        """Hosts whose requests may have left at another time than the schedule's by more than the lag limit."""
        limit_ns = LAG_MIN_MS * NS_PER_MS
        return tuple(
            Doubt(
                kind="worker_clock",
                sentence=f"{self._clock_doubt(worker)}; its sends may be that far from the schedule "
                f"(limit {LAG_MIN_MS:g} ms)",
            )
            for worker in self._workers
            if worker in self._before and (self._before[worker][1] > limit_ns or abs(self._moved(worker)) > limit_ns)
        )

    def _moved(self, worker: str) -> int:
        """How far the clock surely moved: the change beyond what both readings leave open."""
        if worker not in self._after:
            return 0
        (first, first_open), (last, last_open) = self._before[worker], self._after[worker]
        return max(0, abs(last - first) - first_open - last_open)

    def _clock_doubt(self, worker: str) -> str:
        offset_ns, uncertain_ns = self._before[worker]
        moved = f", moved {self._moved(worker) / NS_PER_MS:.3f} ms" if worker in self._after else ""
        return (
            f"load worker {self._hosts.name_of(worker)}: clock offset {offset_ns / NS_PER_MS:.3f} ms, known to "
            f"{uncertain_ns / NS_PER_MS:.3f} ms{moved}"
        )

    def local_busy_s(self) -> float:
        """CPU seconds of the load processes that ran on this machine."""
        here = BOOT_ID.read_text().strip()
        local = [self._hosts.workers.get(worker, {}).get("boot") == here for worker in self._workers]
        return sum(busy_s for part, busy_s in self.busy_s.items() if local[part % len(local)])
