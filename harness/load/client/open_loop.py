"""The open loop in one load process: one greenlet sends every request on time, a growing pool of users reads answers.

The sender itself writes to the socket (nothing stands between the timer and the send), then wakes the user that owns
the connection. Idle, connected users are kept ahead of need, so that set-up is no part of a latency unless a burst is
larger than the reserve. With `limit` requests outstanding a due request waits, its latency running, and is counted. A
turn that follows another is due at its own time, or a think time after that one's answer where that is later, and is
sent by a greenlet that lives so long.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable

import gevent
from gevent.event import Event
from gevent.hub import Waiter

from harness.load.client.http import Connection
from harness.load.client.raw_records import Exchange
from harness.load.client.timer import Timer
from harness.load.plan import START_USERS, LoadPlan, firsts_of, next_turns, share_of
from harness.units import NS_PER_S

RESERVE_FRAC = 0.25
RESERVE_MIN = 4
"""Idle users kept beside the busy ones: a quarter of them, at least four."""
BURST_SENDS = 16
"""Sends in a row, when behind, before answers are looked after again."""
DRAIN_POLL_S = 0.02


Finished = Callable[[Exchange], None]
"""Keep a request that is over."""


class PoolUser:
    """One connection and the greenlet that reads from it."""

    def __init__(self, pool: Pool, connection: Connection, number: int) -> None:
        self._pool = pool
        self.number = number
        self.connection = connection
        self._waiter: Waiter = Waiter()

    def live(self) -> None:
        """Connect, then serve requests until the pool is closed."""
        with contextlib.suppress(OSError):  # the first request will try again, and say what is wrong
            self.connection.open()
        due = self._pool.join(self)
        while True:
            if due is None:
                due = self._wait()
                if due is None:
                    return
            self.connection.finish(due, _nothing)
            due = self._pool.leave(self, due)

    def wake(self, due: Exchange | None) -> None:
        """Give this idle user a request, or None to end it. From any greenlet."""
        gevent.get_hub().loop.run_callback(self._waiter.switch, due)

    def _wait(self) -> Exchange | None:
        due: Exchange | None = self._waiter.get()
        self._waiter.clear()
        return due


class Pool:
    """Users of one load process. `grow(n)` makes n more of them live; `limit` is this process's share."""

    def __init__(self, plan: LoadPlan, part: int, grow: Callable[[int], None], finished: Finished) -> None:
        self._timeout_ns = int(plan.request_timeout_s * NS_PER_S)
        self._bound = plan.max_in_flight
        self.limit = share_of(plan.max_in_flight, part, plan.processes)
        self._grow = grow
        self._finished = finished
        self._idle: list[PoolUser] = []
        self._backlog: deque[tuple[Exchange, bytes]] = deque()
        self._users = 0
        self._plan = plan
        self._firsts = firsts_of(plan, part)
        self._next_turns = next_turns(plan)
        self._think_ns = int(plan.think_time_s * NS_PER_S)
        self._begin_ns = 0
        self._wire: Callable[[int], bytes] = _no_wire
        self._coming = 0
        self._failed: BaseException | None = None
        self.in_flight = 0
        self.peak_in_flight = 0
        self.waited = 0
        self.is_done = Event()

    def begin_users(self) -> int:
        """How many users the process begins with; they are counted from now on."""
        self._users = min(START_USERS, self.limit)
        return self._users

    def run(self, begin_ns: int, wire: Callable[[int], bytes]) -> None:
        """Send everything of this part, each at its time; returns when every answer is in or has timed out."""
        self._begin_ns, self._wire, offsets_ns = begin_ns, wire, self._plan.offsets_ns
        timer = Timer(priority=True)
        behind = 0
        for seq in self._firsts:
            request = wire(seq)
            intended_ns = begin_ns + offsets_ns[seq]
            if intended_ns > time.monotonic_ns():
                timer.wait_until(intended_ns)
                behind = 0
            elif (behind := behind + 1) >= BURST_SENDS:
                gevent.sleep(0)
                behind = 0
            self._send(Exchange(seq=seq, intended_ns=intended_ns), request)
        timer.close()
        while self.in_flight or self._backlog or self._coming:
            gevent.sleep(DRAIN_POLL_S)
            if self._failed is not None:
                raise self._failed
            self._expire(time.monotonic_ns())
        for user in self._idle:
            user.wake(None)
        self.is_done.set()

    def join(self, user: PoolUser) -> Exchange | None:
        """A new user is there: a waiting request for it, or None and it is idle."""
        return self._next(user)

    def leave(self, user: PoolUser, due: Exchange) -> Exchange | None:
        """`user` has its answer: keep it; the next waiting request, or None and it is idle."""
        self.in_flight -= 1
        due.user = user.number
        self._over(due)
        return self._next(user)

    def _over(self, request: Exchange) -> None:
        """Keep a finished request; the turn that follows it, if any, has a time now, whatever became of this one."""
        self._finished(request)
        seq = self._next_turns.get(request.seq)
        if seq is not None:
            self._coming += 1
            planned_ns = self._begin_ns + self._plan.offsets_ns[seq]
            due_ns = max(planned_ns, request.done_ns + self._think_ns)
            turn = Exchange(seq=seq, intended_ns=due_ns, planned_ns=planned_ns)
            gevent.spawn(self._send_later, turn).link_exception(self._note_failure)

    def _send_later(self, turn: Exchange) -> None:
        request = self._wire(turn.seq)
        if turn.intended_ns > time.monotonic_ns():
            timer = Timer(priority=True)
            timer.wait_until(turn.intended_ns)
            timer.close()
        self._send(turn, request)
        self._coming -= 1

    def _note_failure(self, greenlet: gevent.Greenlet) -> None:
        self._failed = greenlet.exception

    def _send(self, due: Exchange, request: bytes) -> None:
        if self._idle and not self._backlog:
            user = self._idle.pop()
            user.connection.start(due, request)
            self._count()
            user.wake(due)
        else:
            self.waited += self.in_flight >= self.limit
            self._backlog.append((due, request))
        self._reserve()

    def _reserve(self) -> None:
        """Keep idle users ahead of need."""
        busy = self.in_flight + len(self._backlog)
        wanted = min(self.limit, busy + max(RESERVE_MIN, int(busy * RESERVE_FRAC)))
        if wanted > self._users:
            missing, self._users = wanted - self._users, wanted
            gevent.spawn(self._grow, missing)

    def _next(self, user: PoolUser) -> Exchange | None:
        self._expire(time.monotonic_ns())
        if self._backlog:
            due, request = self._backlog.popleft()
            user.connection.start(due, request)
            self._count()
            return due
        self._idle.append(user)
        return None

    def _count(self) -> None:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def _expire(self, now_ns: int) -> None:
        """Waiting requests that could not be sent within the request's timeout have timed out, unsent."""
        while self._backlog and now_ns - self._backlog[0][0].intended_ns > self._timeout_ns:
            due, _ = self._backlog.popleft()
            due.sent_ns = due.done_ns = now_ns
            due.failure = "timed_out"
            due.error = (
                f"not sent within {self._timeout_ns / NS_PER_S:g} s: {self.in_flight} requests were outstanding in "
                f"this load process (max_in_flight = {self._bound} over all)"
            )
            self._over(due)


def _nothing() -> None:
    return


def _no_wire(seq: int) -> bytes:
    raise RuntimeError(f"request {seq} wanted before the load began")
