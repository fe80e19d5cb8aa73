"""Ray and Dask started on this machine, with nodes that stand for machines: each a group of processes that can be
killed whole or in part, and started again."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from engines.processes.server_process import free_port
from harness.measure.machine.machine_class import TEST_PLACE
from harness.places.open_cluster import open_cluster
from tests.waiting import eventually

TRIES = 3
RAY_PORTS = ("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats")


@dataclass(slots=True, kw_only=True)
class RealCluster:
    """A cluster at `address`, whose nodes and clients have `env`; no other process of this machine has its
    `DYNO_CACHE`."""

    kind: str
    address: str
    env: dict[str, str]
    folder: Path
    _node: list[str]
    _daemon: str
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_node(self, name: str) -> None:
        """A node that stands for the machine `name`; returns when it takes part, as far as it shows that itself."""
        log = self.folder / f"{name}.log"
        for _ in range(TRIES):  # Ray gives a node 30 s, and a busy machine needs longer
            with log.open("wb") as printed:
                node = self.start(self._node, {**self.env, TEST_PLACE: name}, printed.fileno())
            eventually(partial(_runs_or_ended, node, log), f"node {name}")
            if node.poll() is None:
                return
        raise AssertionError(f"node {name} ended {TRIES} times: {log.read_text(errors='replace')}")

    def start(self, argv: Sequence[str], env: dict[str, str], out: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """A process of the cluster, ended with it."""
        program = Path(sys.executable).with_name(argv[0])
        process = subprocess.Popen([str(program), *argv[1:]], env=env, cwd="/", stdout=out, stderr=out)
        self._running.append(process)
        return process

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Every process of the nodes, or of one, trials and engines included."""
        return [each for each in psutil.process_iter() if _is_of(each, self.env["DYNO_CACHE"], name)]

    def trials(self, name: str = "") -> list[psutil.Process]:
        """The processes of the trials under way on all nodes or on one, engines not included."""
        return [each for each in self.processes(name) if {"harness.places.at_place", "measure"} <= set(command(each))]

    def workers(self, name: str = "") -> list[psutil.Process]:
        """The workers that watch a trial."""
        found = []
        for each in self.trials(name):
            with suppress(psutil.Error):
                found.append(psutil.Process(each.ppid()))
        return found

    def daemons(self, name: str) -> list[psutil.Process]:
        """What starts the workers of a node: Ray's raylet, Dask's nanny."""
        return [each for each in self.processes(name) if self._daemon in " ".join(command(each)[:3])]

    def kill_node(self, name: str) -> None:
        """Kill -9 of all that runs on it, as when a machine loses its power."""
        while left := [each for each in self.processes(name) if each.status() != psutil.STATUS_ZOMBIE]:
            for each in left:
                kill(each)

    def end(self) -> None:
        """Kill every process of it."""
        for process in self._running:
            with suppress(psutil.NoSuchProcess):
                for each in (*psutil.Process(process.pid).children(recursive=True), process):
                    each.kill()
            process.wait()
        for each in self.processes():
            kill(each)


def kill(process: psutil.Process) -> None:
    """Kill -9, unless it has ended."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


def command(process: psutil.Process) -> list[str]:
    """Its arguments; none where it has ended."""
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def _is_of(process: psutil.Process, cache: str, name: str) -> bool:
    with suppress(psutil.Error):
        env = process.environ()
        is_node = TEST_PLACE in env and (not name or env[TEST_PLACE] == name)
        return is_node and env.get("DYNO_CACHE") == cache
    return False


@contextmanager
def real_cluster(kind: str, names: Sequence[str]) -> Iterator[RealCluster]:
    """A cluster 'ray' or 'dask' with a node for each name, killed at the end; the coordinator of its engine is on none
    of them."""
    folder = Path(tempfile.mkdtemp(prefix="places"))  # Ray's sockets are below it; their names may have 107 bytes
    found = None
    try:
        found = (_ray if kind == "ray" else _dask)(folder)
        for name in names:
            found.start_node(name)
        if kind == "dask":
            with open_cluster(found.address) as there:
                eventually(lambda: len(there.nodes()) == len(names), "Dask's workers")
        yield found
    finally:
        if found is not None:
            found.end()
        shutil.rmtree(folder, ignore_errors=True)


def _ray(folder: Path) -> RealCluster:
    """With a token: Ray listens on every interface of this machine."""
    port, token = free_port(), secrets.token_hex(16)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_worker_niceness": "0"}
    env = {**os.environ, **own, "DYNO_CACHE": str(folder / "cache")}
    joining = ["ray", "start", f"--address=127.0.0.1:{port}", "--num-cpus=1", '--resources={"machine": 1}']
    cluster = RealCluster(
        kind="ray",
        address=f"127.0.0.1:{port}",
        env=env,
        folder=folder,
        _node=[*joining, *RAY_PORTS, "--block"],
        _daemon="raylet/raylet",
    )
    head = ["ray", "start", "--head", f"--port={port}", "--num-cpus=0", f"--ray-client-server-port={free_port()}"]
    log = folder / "head.log"
    with log.open("wb") as printed:
        options = ["--include-dashboard=false", f"--temp-dir={folder}", *RAY_PORTS, "--block"]
        started = cluster.start([*head, *options], env, printed.fileno())
    eventually(partial(_runs_or_ended, started, log), "Ray's head")
    assert started.poll() is None, log.read_text(errors="replace")
    return cluster


def _dask(folder: Path) -> RealCluster:
    port = free_port()
    own = ["--host=127.0.0.1", "--no-dashboard"]
    worker = ["dask", "worker", f"127.0.0.1:{port}", "--resources=machine=1", "--nthreads=2", *own]
    cluster = RealCluster(
        kind="dask",
        address=f"dask://127.0.0.1:{port}",
        env={**os.environ, "DYNO_CACHE": str(folder / "cache")},
        folder=folder,
        _node=[*worker, f"--local-directory={folder}"],
        _daemon="dask worker",
    )
    cluster.start(["dask", "scheduler", f"--port={port}", *own], cluster.env)
    eventually(lambda: _answers(port), "Dask's scheduler")
    return cluster


def _runs_or_ended(node: subprocess.Popen[bytes], log: Path) -> bool:
    written = log.read_bytes()
    return node.poll() is not None or b"Ray runtime started" in written or b"Registered to:" in written


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
