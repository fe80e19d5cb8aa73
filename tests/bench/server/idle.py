"""Where a lone request's time goes at a low rate: one thing more in each row, all asked at the same pace.

A process that has slept for a tenth of a second finds its caches taken and its core halted, so the same call in a loop
takes less than it would take there. So: the engine in this process, in a loop and paced; a wake-up of another process
and back, of which a request needs two (client and front, front and worker); this client against a server in C that
answers at once; uvicorn, as our server sets it up, around an application that answers at once; our server around a
handler that takes no time, paced and (one user) in a loop; our server around the model. Beside each latency the CPU
time of the server's processes and of the client, by request.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.api import Endpoint, RunningEngine
from tests.bench.server import loads, rivals
from tests.bench.server.stages import EngineAlone

SOURCE = loads.ROOT / "tests" / "bench" / "load" / "server.c"
ECHO = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]))\nwhile got := s.recv(512): s.sendall(got)"
CALLS = 150


def idle(
    model: RunningEngine, alone: EngineAlone, folder: Path, rate_rps: float, seconds: float
) -> list[dict[str, Any]]:
    """One row per thing that answers, at `rate_rps`; `model` is our server around the model that `alone` has loaded."""
    rows: list[dict[str, Any]] = [
        {"answers": "the call, in a loop", "p50_ms": statistics.median(alone.latencies_ms(CALLS))},
        {"answers": "the call, paced", "p50_ms": paced_ms(lambda: alone.latencies_ms(1), rate_rps)},
        {"answers": "a process woken and back, paced", "p50_ms": echo_ms(rate_rps)},
    ]

    def paced(running: loads.Asked, what: str) -> None:
        rows.append({"answers": what, **asdict(loads.poisson(running, folder, rate_rps, seconds))})

    with in_c(folder) as running:
        paced(running, "a server in C that answers at once")
    with answering([sys.executable, "-m", "tests.bench.server.uvicorn_alone"]) as running:
        paced(running, "uvicorn, an application that answers at once")
    with rivals.launched("ours, rolling", 1, folder / "no-time") as hosted:
        paced(hosted, "our server, a handler that takes no time")
        looped = loads.closed(hosted, folder, 1, seconds)
        rows.append({"answers": "the same, one user in a loop", **asdict(looped)})
    paced(model, "our server, the model")
    return rows


def paced_ms(call: Callable[[], object], rate_rps: float) -> float:
    """The median wall time of a call that is made so often, asleep in between."""
    found = []
    for _ in range(CALLS):
        time.sleep(1 / rate_rps)
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1e3)
    return statistics.median(found)


def echo_ms(rate_rps: float) -> float:
    """A message of a request's size to a process that sleeps in a read, and its echo."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [sys.executable, "-S", "-c", ECHO, str(theirs.fileno())]
        with subprocess.Popen(argv, pass_fds=(theirs.fileno(),)) as process:
            message = b"x" * 300

            def turn() -> None:
                ours.sendall(message)
                ours.recv(512)

            turn()
            found = paced_ms(turn, rate_rps)
            ours.shutdown(socket.SHUT_RDWR)
            process.wait()
    return found


@dataclass(frozen=True, slots=True)
class Answering:
    """A server as `loads` asks one."""

    endpoint: Endpoint
    pids: tuple[int, ...]


def in_c(folder: Path) -> AbstractContextManager[Answering]:
    """The server in C, built into `folder`."""
    binary = folder / "at-once"
    subprocess.run(["gcc", "-O2", "-o", str(binary), str(SOURCE)], check=True)
    return answering([str(binary), "0", str(folder / "at-once.log")])


@contextmanager
def answering(argv: Sequence[str]) -> Iterator[Answering]:
    """A server that prints its port."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=loads.ROOT) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield Answering(Endpoint(url=f"http://127.0.0.1:{port}"), (process.pid,))
        finally:
            process.terminate()
