"""Ray as the cluster: each question a core task on the node that it names, never run again by Ray (DECISIONS 70).

The only file that imports Ray, and only when a cluster is opened. A task holds no code but the name of `ask_here`,
which Ray looks up in the package installed on the node. `machine: 1` is a resource that each node is started with.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from harness.errors import EnvironmentFault, UsageError
from harness.places.cluster import Lost, Refused, Task, machine_of, part_of, parts_of, share_of
from harness.places.requests import Verb
from harness.places.worker import ask_here

RESOURCE = "machine"
CONNECT_S = 5.0
EXPECTED = "expected ray://HOST:10001 (from outside, Ray's client) or HOST:6379 (from a machine of the cluster)"


class RayCluster:
    """A connection to a Ray cluster."""

    def __init__(self, address: str, split: int = 1) -> None:
        """`address` as in EXPECTED. Raises UsageError, EnvironmentFault: Ray is not installed, nobody answers, or it is
        another version."""
        self.address, self.split = address, split
        _check_address(address)
        try:
            import ray
        except ImportError as error:
            raise EnvironmentFault("--places needs Ray: pip install 'dynamometer[ray]'") from error
        self._ray: Any = ray
        self._errors: Any = ray.exceptions
        with _own_signals():
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, self._errors.RayError) as error:
                raise EnvironmentFault(f"{address}: Ray does not take the connection: {_first_line(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):  # it may be gone already, and that is what was wanted
            self._ray.shutdown()

    def nodes(self) -> frozenset[str]:
        """Nodes alive that offer `machine`."""
        with self._connected():
            nodes = self._ray.nodes()
        alive = [each["NodeID"] for each in nodes if each["Alive"] and each["Resources"].get(RESOURCE, 0) >= 1]
        return frozenset(parts_of(alive, self.split))

    def ask(self, node: str, verb: Verb, request: str) -> Task:
        """A task bound to the node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {"resources": {RESOURCE: share_of(node)}} if verb == "measure" else {}
        with self._connected():
            remote = self._ray.remote(ask_here).options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=machine_of(node), soft=False),
                **options,
            )
            try:
                part = {"part": part_of(node)} if part_of(node) else {}  # one that --prepare replaces may know no parts
                task: Task = remote.remote(verb, request, **part)
            except ImportError as error:  # Ray's client looks up the function on the head node
                raise EnvironmentFault(
                    f"{self.address}: the head node lacks this dynamometer ({error}); install the same version in the "
                    "environment that starts Ray on every node"
                ) from error
        return task

    def wait(self, tasks: Collection[Task], timeout_s: float) -> Task | None:
        """The first that Ray lists as ready."""
        if not tasks:
            time.sleep(timeout_s)  # of no task Ray answers at once
            return None
        with self._connected():
            ready, _ = self._ray.wait(list(tasks), num_returns=1, timeout=timeout_s)
        return ready[0] if ready else None

    def answer(self, task: Task) -> bytes:
        """Raises Lost for every error of Ray's and of the worker."""
        with self._connected():
            try:
                reply, refused = self._ray.get(task, timeout=60)
            except (self._errors.RayError, RuntimeError) as error:
                raise Lost(f"{type(error).__name__}: {_first_line(error)}") from error
        if refused:
            raise Refused(refused)
        return bytes(reply)

    def cancel(self, task: Task, *, is_killed: bool = False) -> None:
        """Ray's cancellation: KeyboardInterrupt in the worker, or its end."""
        with self._connected(), contextlib.suppress(self._errors.RayError, ValueError):
            self._ray.cancel(task, force=is_killed)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionError, self._errors.RaySystemError) as error:
            raise EnvironmentFault(
                f"{self.address}: the connection to the Ray cluster is lost ({_first_line(error)}); what has finished "
                "is kept, the same command continues from there"
            ) from error


def _check_address(address: str) -> None:
    """Raises UsageError where `address` is none, EnvironmentFault where nobody answers there."""
    is_client = address.startswith("ray://")
    parts = urlsplit(address if is_client else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or ("://" in address and not is_client):
        raise UsageError(f"--places: {EXPECTED}, got {address!r}")
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise EnvironmentFault(
            f"{address}: nobody answers ({error.strerror or error}); `ray start --head` prints the address, and its "
            "client listens on port 10001"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets a handler of SIGTERM and forgets the one before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _first_line(error: BaseException) -> str:
    """The line of an error of Ray's that states what happened; a traceback of the worker stands before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
