"""Dask distributed as the cluster: each question a task bound to one worker process, never run again (DECISIONS 80).

The only file that imports Dask, and only when a cluster is opened. A task holds no code but the name of `ask_as`, which
the worker looks up in the package installed there. `machine: 1` is a resource that each worker is started with.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

from harness.errors import EnvironmentFault, UsageError
from harness.places.cluster import Lost, Refused, Task, machine_of, part_of, parts_of, share_of
from harness.places.requests import Verb
from harness.places.worker import ask_here

RESOURCE = "machine"
CONNECT_S = 10.0
LOOK_S = 1.0
EXPECTED = "expected dask://HOST:8786, the address of a Dask scheduler"


@dataclass(slots=True, kw_only=True)
class _Asked:
    """A question under way in a worker; `child` is the process that answers it, `stop` is set where it shall end."""

    part: str
    stop: threading.Event = field(default_factory=threading.Event)
    child: subprocess.Popen[bytes] | None = None


_ASKED: dict[str, _Asked] = {}
"""In a worker: the questions under way there, by the name of their task."""


class DaskCluster:
    """A connection to a Dask scheduler. A node is a worker process by its address."""

    def __init__(self, address: str, split: int = 1) -> None:
        """`address` as in EXPECTED. Raises UsageError, EnvironmentFault: Dask is not installed, or nobody answers."""
        self.address, self.split = address, split
        where = _scheduler_of(address)
        try:
            import distributed
        except ImportError as error:
            raise EnvironmentFault("--places needs Dask: pip install 'dynamometer[dask]'") from error
        self._distributed: Any = distributed
        self._nodes: dict[str, str] = {}
        try:
            self._client: Any = distributed.Client(where, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise EnvironmentFault(
                f"{address}: nobody answers ({type(error).__name__}); `dask scheduler` prints its address"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close(timeout=5)

    def nodes(self) -> frozenset[str]:
        """Workers that the scheduler knows and that offer `machine`."""
        with self._connected():
            return frozenset(parts_of(self._workers(), self.split))

    def _workers(self) -> dict[str, str]:
        """Address -> the folder of that worker process, which no other one has, of those that offer `machine`."""
        # Not scheduler_info(): what it returns is replaced every two seconds by a copy without workers.
        found = self._client.sync(self._client.scheduler.identity, n_workers=-1)["workers"]
        return {
            address: each["local_directory"]
            for address, each in found.items()
            if each["resources"].get(RESOURCE, 0) >= 1
        }

    def ask(self, node: str, verb: Verb, request: str) -> Task:
        """A task bound to the worker."""
        key, worker = f"{verb}-{uuid.uuid4().hex}", machine_of(node)
        with self._connected():
            folder = self._workers().get(worker, "")
            future: Task = self._client.submit(
                ask_as,
                key,
                folder,
                verb,
                request,
                *filter(None, [part_of(node)]),
                key=key,
                workers=[worker],
                allow_other_workers=False,
                retries=0,
                pure=False,
                resources={RESOURCE: share_of(node)} if verb == "measure" else None,
            )
        self._nodes[key] = worker
        return future

    def wait(self, tasks: Collection[Task], timeout_s: float) -> Task | None:
        """The first that has ended, or whose worker is gone: Dask keeps such a task for a worker to come."""
        if not tasks:
            threading.Event().wait(timeout_s)
            return None
        left_s = timeout_s
        while True:
            gone = self._gone(tasks)
            if gone is not None or left_s <= 0:
                return gone
            with self._connected(), self._client.as_current():
                try:
                    ended = self._distributed.wait(
                        list(tasks), timeout=min(left_s, LOOK_S), return_when="FIRST_COMPLETED"
                    )
                    return cast("Task", next(iter(ended.done)))
                except TimeoutError:
                    left_s -= LOOK_S

    def answer(self, task: Any) -> bytes:
        """Raises Lost for every error of Dask's and of the worker."""
        node = self._nodes.pop(task.key)
        if not task.done():
            self._client.cancel([task], force=True)
            raise Lost(f"worker {node} left the cluster")
        with self._connected():
            try:
                reply, refused = task.result(timeout=60)
            except (self._distributed.CancelledError, self._distributed.KilledWorker, RuntimeError, OSError) as error:
                raise Lost(f"{type(error).__name__}: {_last_line(error)}") from error
        if refused:
            raise Refused(refused)
        return bytes(reply)

    def cancel(self, task: Any, *, is_killed: bool = False) -> None:
        """A task cannot be interrupted from outside: its worker is asked to end it, or to kill its process."""
        if task.done() or self._gone([task]) is not None:
            return
        with self._connected():
            node = self._nodes[task.key]
            try:
                self._client.run(end_here if is_killed else stop_here, task.key, workers=[node], on_error="ignore")
            except (self._distributed.comm.CommClosedError, KeyError, ValueError):
                return  # it has ended meanwhile

    def _gone(self, tasks: Collection[Any]) -> Task | None:
        with self._connected():
            here = self._workers()
        return next((task for task in tasks if not task.done() and self._nodes.get(task.key) not in here), None)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            if self._client.status != "running":
                raise ConnectionError(f"its connection is {self._client.status}")
            yield
        except OSError as error:  # CommClosedError is one
            raise EnvironmentFault(
                f"{self.address}: the connection to the Dask scheduler is lost ({_last_line(error)}); what has "
                "finished is kept, the same command continues from there"
            ) from error


def ask_as(key: str, folder: str, verb: Verb, request: str, part: str = "") -> tuple[bytes, str]:
    """`ask_here` in the worker of that folder, until `stop_here` or until nobody waits for it. Raises RuntimeError in
    any other: Dask runs a task again in a worker that was started in the place of one that ended, at the same
    address."""
    from distributed import get_worker

    worker = get_worker()
    if worker.local_directory != folder:
        raise RuntimeError("the worker ended, and another was started in its place")
    asked = _ASKED[key] = _Asked(part=part)
    try:
        return ask_here(
            verb,
            request,
            lambda: asked.stop.is_set() or _is_given_up(worker, key),
            # A nanny gives its worker variables, such as one OpenMP thread, that it was not started with.
            started=os.getppid() if worker.nanny else os.getpid(),
            part=part,
            begun=partial(setattr, asked, "child"),
        )
    finally:
        del _ASKED[key]


def _is_given_up(worker: Any, key: str) -> bool:
    """Whether the scheduler has taken the task back, as it does when the search that asked is gone, or is gone too."""
    task = worker.state.tasks.get(key)
    return task is None or task.state == "cancelled" or worker.status.name in ("closing", "closed", "failed")


def stop_here(key: str) -> None:
    """Interrupt a question under way in this worker."""
    if key in _ASKED:
        _ASKED[key].stop.set()


def end_here(key: str) -> None:
    """Kill the process of a question that does not end; questions to other parts of the machine are left alone. A file
    that is received has no process and is never for a part: there this worker ends, and its nanny starts another."""
    if (asked := _ASKED.get(key)) is None:
        return
    asked.stop.set()
    if asked.child is not None:
        asked.child.kill()
    elif not asked.part:
        os.kill(os.getpid(), signal.SIGKILL)


def _scheduler_of(address: str) -> str:
    """'tcp://HOST:PORT' or 'tls://...'."""
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in ("dask", "dask+tls"):
        raise UsageError(f"--places: {EXPECTED}, got {address!r}")
    return f"{'tls' if parts.scheme == 'dask+tls' else 'tcp'}://{host}:{port}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
