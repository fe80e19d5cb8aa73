"""The pool of connections that the users of one load process share, and what each user does with them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import gevent
from gevent.event import AsyncResult, Event

from harness.load.client.http import Connection
from harness.load.client.open_loop import Pool, PoolUser
from harness.load.client.raw_records import WARMUP_BASE, Exchange
from harness.load.client.request_counter import Tickets
from harness.load.client.timer import Timer
from harness.load.plan import LoadPlan, firsts_in, next_turns, share_of
from harness.load.prompts.lengths import SentPrompts, shaped
from harness.load.protocol.interface import NoAnswer
from harness.load.protocol.request_form import form_of
from harness.records import Prompt
from harness.units import NS_PER_S

FAILURE_PAUSE_NS = 50_000_000
"""A user whose request failed waits this long before the next: a refusing server is not hammered in a tight loop."""

MAX_CACHED_REQUESTS = 10_000


class Session:
    """Users of load process `part` (of plan.processes): connect, warm up, wait for the start signal, load."""

    def __init__(self, plan: LoadPlan, workdir: Path, part: int) -> None:
        self.plan = plan
        self._part = part
        self.pool = Pool(plan, part, self._grow, self._over) if plan.is_open_loop else None
        self.users = self.pool.begin_users() if self.pool else share_of(plan.users, part, plan.processes)
        self.add_users: Callable[[int], None] = _no_users
        self._started = 0
        self._form = form_of(plan)
        self._sent = SentPrompts(plan)
        self._requests: dict[tuple[str, ...], bytes] = {}
        self._warmup = Tickets(workdir / "tickets-warmup", share_of(plan.warmup_requests, plan.host, plan.hosts))
        self._firsts, self._next_turns = firsts_in(plan), next_turns(plan)
        measured = share_of(len(self._firsts), plan.host, plan.hosts)
        self._measured = Tickets(workdir / "tickets-measured", measured)
        self._file = (workdir / f"raw-{part}.jsonl").open("wb", buffering=1 << 20)
        self.done_requests = self.failed_requests = 0
        self._waiting = 0
        self._finished = 0
        self.is_warm = Event()
        self.is_finished = Event()
        self.go: AsyncResult = AsyncResult()

    def enter(self) -> int:
        """The number of the next user, unique over all processes."""
        self._started += 1
        return (self._started - 1) * self.plan.processes + self._part

    def run_user(self, user: int) -> None:
        """The whole life of one user."""
        if self._waiting < self.users:
            self._warm_up_and_load(user)
        else:  # the pool grew
            self._serve(user, self.connection())

    def run_schedule(self, begin_ns: int) -> None:
        """Open loop: send this process's part of the schedule. Returns when everything is answered."""
        assert self.pool is not None
        self.pool.run(begin_ns, self._wire_of)
        self.is_finished.set()

    def _warm_up_and_load(self, user: int) -> None:
        worker = UserRun(self, user)
        try:
            worker.warm_up()
            self._waiting += 1
            if self._waiting == self.users:
                self.is_warm.set()
            if self.pool is not None:
                self._serve(user, worker.connection)
            else:
                worker.load(self.go.get())
        finally:
            worker.close()
            self._finished += 1
            if self._finished == self.users:
                self.is_finished.set()

    def _serve(self, user: int, connection: Connection) -> None:
        assert self.pool is not None
        PoolUser(self.pool, connection, user).live()

    def _grow(self, count: int) -> None:
        self.add_users(count)

    def connection(self) -> Connection:
        """A fresh connection to the endpoint."""
        return Connection(
            self._form.address,
            self.plan.request_timeout_s,
            keep_marks=self.plan.stream,
            is_kept=not (self.plan.stream and self.plan.dialect.is_streamed_on_fresh),
        )

    def take_warmup(self) -> tuple[int, bytes] | None:
        """The next warm-up request (seq, bytes on the wire), or None."""
        number = self._numbered(self._warmup.take())
        return None if number is None else (WARMUP_BASE + number, self._wire(self._sent.warmup(number)))

    def take_turn(self, last: int | None) -> tuple[int, bytes] | None:
        """The measured request (seq, bytes on the wire) that follows a user's last one in its conversation, or None."""
        seq = None if last is None else self._next_turns.get(last)
        return None if seq is None else (seq, self._wire_of(seq))

    def take_measured(self) -> tuple[int, bytes] | None:
        """The next measured request (seq, bytes on the wire) that follows none, or None."""
        number = self._numbered(self._measured.take())
        return None if number is None else (self._firsts[number], self._wire_of(self._firsts[number]))

    def _numbered(self, ticket: int | None) -> int | None:
        """The request of a ticket of this host, unique over all hosts."""
        return None if ticket is None else ticket * self.plan.hosts + self.plan.host

    def keep_answer(self, raw: Exchange) -> None:
        """Keep the answer for the turns behind it, where the server's own answers are their history."""
        turns = self._sent.own_turns
        if turns is None or raw.is_warmup or not raw.is_answered:
            return
        with contextlib.suppress(NoAnswer):  # the file's answer stays
            answer = self._form.read(raw.body, raw.marks, 1)
            turns.keep_answer(raw.seq, answer.texts[0], answer.response_id)

    def _over(self, raw: Exchange) -> None:
        self.keep_answer(raw)
        self.keep(raw)

    def keep(self, raw: Exchange) -> None:
        """Append one request to the file (buffered)."""
        self._file.write(raw.line())
        self.done_requests += not raw.is_warmup
        self.failed_requests += not raw.is_warmup and not raw.is_answered

    def flush(self) -> None:
        """Hand the buffered lines to the kernel."""
        self._file.flush()

    def close(self) -> None:
        """Close every file."""
        self._file.close()
        self._warmup.close()
        self._measured.close()

    def _wire_of(self, seq: int) -> bytes:
        prompts = self._sent.measured(seq)
        plan = self.plan
        if not plan.input_lengths and not plan.output_lengths and plan.own_history is None:
            return self._wire(prompts)
        return self._form.request(*shaped(plan, seq, prompts))

    def _wire(self, prompts: tuple[Prompt, ...]) -> bytes:
        key = tuple(prompt.prompt_id for prompt in prompts)
        wire = self._requests.get(key)
        if wire is None:
            wire = self._form.request(prompts)
            if len(self._requests) < MAX_CACHED_REQUESTS:
                self._requests[key] = wire
        return wire


class UserRun:
    """One user with its own connection: its warm-up, and its closed loop."""

    def __init__(self, session: Session, user: int) -> None:
        self._session = session
        self._user = user
        self.connection = session.connection()
        self._timer = Timer()
        self._unwritten: Exchange | None = None

    def warm_up(self) -> None:
        """Connect, then send warm-up requests until none is left. Returns when this user's last one is answered."""
        try:
            self.connection.open()
        except OSError:
            gevent.sleep(FAILURE_PAUSE_NS / NS_PER_S)  # the first request will say what is wrong
        while (ticket := self._session.take_warmup()) is not None:
            raw = self._send(ticket, intended_ns=time.monotonic_ns(), is_warmup=True)
            if not raw.is_answered:
                gevent.sleep(FAILURE_PAUSE_NS / NS_PER_S)
        self._write()

    def load(self, begin_ns: int) -> None:
        """Closed loop from `begin_ns` on: a user is free when its answer is complete, and sends think_time_s later.

        Users with a think time begin spread over one think time, not all at once. No request begins after
        max_duration_s; one that is in flight then is finished and counted.
        """
        plan = self._session.plan
        think_ns = int(plan.think_time_s * NS_PER_S)
        stop_ns = begin_ns + int(plan.max_duration_s * NS_PER_S)
        intended_ns = begin_ns + think_ns * self._user // plan.users
        last: int | None = None
        while intended_ns < stop_ns:
            turn = self._session.take_turn(last)
            if intended_ns > time.monotonic_ns():
                self._timer.wait_until(intended_ns)
            ticket = turn or self._session.take_measured()
            if ticket is None:
                break
            raw = self._send(ticket, intended_ns=intended_ns, is_warmup=False)
            last = raw.seq
            pause_ns = 0 if raw.is_answered else FAILURE_PAUSE_NS
            intended_ns = self.connection.free_ns + max(think_ns, pause_ns)
        self._write()

    def close(self) -> None:
        """Write what is left, drop the connection and the timer."""
        self._write()
        self.connection.close()
        self._timer.close()

    def _send(self, ticket: tuple[int, bytes], *, intended_ns: int, is_warmup: bool) -> Exchange:
        seq, wire = ticket
        exchange = Exchange(seq=seq, user=self._user, is_warmup=is_warmup, intended_ns=intended_ns)
        self.connection.exchange(exchange, wire, self._write)
        self._write()
        self._session.keep_answer(exchange)
        self._unwritten = exchange
        return exchange

    def _write(self) -> None:
        raw, self._unwritten = self._unwritten, None
        if raw is not None:
            self._session.keep(raw)


def _no_users(count: int) -> None:
    raise RuntimeError(f"{count} more users wanted before there was a runner to make them")


def watch_parent(on_line: Callable[[str], None], on_gone: Callable[[], None]) -> None:
    """Read the parent's lines from stdin; `on_gone` runs when the parent closes it (or dies). Blocks one greenlet."""
    from gevent.os import make_nonblocking, nb_read

    make_nonblocking(0)
    buffered = b""
    while data := nb_read(0, 1 << 16):
        *lines, buffered = (buffered + data).split(b"\n")
        for line in lines:
            on_line(line.decode("ascii"))
    on_gone()


_output = [1]
"""The descriptor that the parent listens to."""


def publish_on(descriptor: int) -> None:
    """From now on `publish` writes there: another's code may print to stdout."""
    _output[0] = descriptor


def publish(line: str) -> None:
    """One line to the parent."""
    os.write(_output[0], line.encode("ascii") + b"\n")
