"""Locust's user class and runner inside a load process.

Importing this file patches the whole process (gevent): only a load process does it, never one that holds an engine,
threads or an event loop.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NoReturn

import gevent
from locust import User, constant, task
from locust.env import Environment
from locust.exception import StopUser

from harness.load.client.connection_pool import Session, publish, watch_parent
from harness.load.plan import DISK_FULL_STATUS, LoadPlan

PROGRESS_S = 0.2


class EndpointUser(User):  # type: ignore[misc]
    """A user of the endpoint under test. Locust spawns it; its one task lives as long as the load does."""

    wait_time = constant(0)
    session: ClassVar[Session]

    @task  # type: ignore[untyped-decorator]
    def live(self) -> None:
        """Warm up, wait for the start signal, load. An error ends the process: Locust would continue without the
        user."""
        try:
            self.session.run_user(self.session.enter())
        except Exception as error:
            leave(error)
        raise StopUser


def leave(error: Exception) -> NoReturn:
    """End this process at once, with the reason as its last line and a separate exit status for a full disk."""
    traceback.print_exception(error)
    sys.stderr.flush()
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    os._exit(DISK_FULL_STATUS if is_full else 1)


def run_part(plan: LoadPlan, workdir: Path, part: int) -> None:
    """Be load process number `part`: prints 'warm', waits for 'go <ns>', prints 'done <n>', at last 'end <cpu s>'."""
    logging.getLogger("locust").setLevel(logging.ERROR)
    session = EndpointUser.session = Session(plan, workdir, part)
    environment = Environment(user_classes=[EndpointUser])
    runner = environment.create_local_runner()
    session.add_users = lambda count: runner.spawn_users({EndpointUser.__name__: count})
    gevent.spawn(watch_parent, lambda line: _start(session, line), lambda: os._exit(0))
    runner.start(session.users, spawn_rate=session.users)
    session.is_warm.wait()
    gc.collect()
    gc.freeze()  # what exists now is never scanned again: no collector pause inside the measured window
    publish("warm")
    begin_ns = session.go.get()
    if plan.is_open_loop:
        gevent.spawn(_or_leave, session.run_schedule, begin_ns)
    cpu_s = time.process_time()
    try:
        while not session.is_finished.wait(timeout=PROGRESS_S):
            session.flush()
            _publish_progress(session)
        session.close()
    except OSError as error:
        leave(error)
    _publish_progress(session)
    publish(f"end {time.process_time() - cpu_s:.6f}")
    runner.quit()


def _publish_progress(session: Session) -> None:
    """Progress: requests done, and failed ones among them; in an open loop also outstanding now, at most so far, and
    how many had to wait."""
    pool = session.pool
    publish(f"done {session.done_requests}")
    publish(f"failed {session.failed_requests}")
    if pool is not None:
        publish(f"pool {pool.in_flight} {pool.peak_in_flight} {pool.waited}")


def _or_leave(work: Callable[[int], None], begin_ns: int) -> None:
    try:
        work(begin_ns)
    except Exception as error:
        leave(error)


def _start(session: Session, line: str) -> None:
    word, _, begin_ns = line.partition(" ")
    if word == "go":
        session.go.set(int(begin_ns))
