"""The model server's job queue, with the admission and batching rules of DJL Serving.

Rules (DJL Serving, wlm package, as noted in its 0.36 sources): a job is refused when no place is left, or when one
place is left and every worker is busy. A permanent worker blocks for its first job, takes what is queued up to
batch_size, then waits with one shrinking budget of max_batch_delay until the batch is full or the budget is spent. So
under light load every request waits the whole delay once batch_size > 1.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.api import GenerateParams, QueueOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What OpenAI's requests ask beyond ours. `is_rendered`: texts are a chat template's, to be read without special
    tokens added; `stop` ends an answer before any of these strings; `context`: prompt and answer fill it, instead of
    max_new_tokens; `wants_pieces`: each token's own text."""

    is_rendered: bool = False
    stop: tuple[str, ...] = ()
    context: int | None = None
    wants_pieces: bool = False


NO_MORE = Asked()


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One input text, or `ids`, its tokens, on its way through the server. `result` gets the worker's answer or an
    exception; `tokens`, when streaming, gets each token message and then None. `queued_ns` and `taken_ns` are
    monotonic."""

    job_id: int
    text: str
    params: GenerateParams
    result: asyncio.Future[dict[str, Any]]
    tokens: asyncio.Queue[dict[str, Any] | None] | None = None
    wants_details: bool = False
    ids: tuple[int, ...] = ()
    asked: Asked = NO_MORE
    is_suspect: bool = False
    """In flight with others when a worker ended: asked again alone, so that it can harm nobody but itself."""
    has_begun: bool = False
    """Its client has tokens of it, so that it cannot be asked again."""
    queued_ns: int = field(default_factory=time.monotonic_ns)
    taken_ns: int = 0
    is_cancelled: bool = False
    mates: tuple[Job, ...] = ()
    """The other inputs of its request, where DJL's rules hold: there a request is one job, whatever it asks."""

    def apart(self) -> list[Job]:
        """It and the other inputs of its request, as separate jobs from now on."""
        jobs = [self, *self.mates]
        self.mates = ()
        for job in jobs:
            job.taken_ns = self.taken_ns
        return jobs

    def fail(self, error: Exception) -> None:
        """Answer it with `error`, unless it is answered."""
        if not self.result.done():
            self.result.set_exception(error)
        if self.tokens is not None:
            self.tokens.put_nowait(None)
        for mate in self.mates:
            mate.fail(error)


class QueueFull(Exception):
    """No place in the queue for this request; it becomes 503."""


class JobQueue:
    """Bounded; used by one event loop. `capacity` counts waiting jobs, not those being served. `order` is how they are
    taken: the heap is Java's PriorityBlockingQueue as DJL Serving has used it since 0.34, all its jobs of one priority.
    """

    def __init__(self, capacity: int, order: QueueOrder = "fifo") -> None:
        self.capacity = capacity
        self.order = order
        self._jobs: deque[Job] = deque()
        self._takers: deque[asyncio.Future[Job]] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def offer(self, jobs: Sequence[Job], are_all_busy: bool) -> None:
        """Queue all jobs of one request, or none: raises QueueFull."""
        remaining = self.capacity - len(self._jobs)
        if remaining < len(jobs) or (remaining == len(jobs) and are_all_busy):
            raise QueueFull(
                f"the queue is full: {len(self._jobs)} of job_queue_size={self.capacity} places are taken and this "
                f"request needs {len(jobs)}; retry later or raise job_queue_size"
            )
        for job in jobs:
            self._hand_over(job)

    def discard(self, job: Job) -> None:
        """Take a job out that nobody waits for any more; does nothing when a worker has it already."""
        job.is_cancelled = True
        if job in self._jobs:
            self._jobs.remove(job)

    @property
    def is_suspect_next(self) -> bool:
        """Whether the next job is one to be asked alone."""
        return bool(self._jobs) and self._jobs[0].is_suspect

    def drain(self, at_most: int) -> list[Job]:
        """What is waiting now, at most `at_most`, without waiting and up to the first that is to be asked alone."""
        jobs: list[Job] = []
        while self._jobs and len(jobs) < at_most and not self.is_suspect_next:
            jobs.append(self.next())
        return jobs

    async def take(self, timeout_s: float | None = None) -> Job | None:
        """The next job; None when none came within `timeout_s`. Takers are served in the order they came."""
        if self._jobs:
            return self.next()
        if timeout_s is not None and timeout_s <= 0:
            return None
        taker: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        try:
            if timeout_s is None:
                return await taker
            await asyncio.wait([taker], timeout=timeout_s)
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled():
                self.put_back([taker.result()])
            raise
        finally:
            if taker in self._takers:
                self._takers.remove(taker)
        return taker.result() if taker.done() else None

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Return jobs that were taken but not served, in their old order, to the head of the queue."""
        for job in reversed(jobs):
            self._jobs.appendleft(job)
        while self._jobs and (taker := self._next_taker()):
            taker.set_result(self.next())

    def fail_all(self, error: Exception) -> None:
        """Answer every waiting job with `error`."""
        while self._jobs:
            self._jobs.popleft().fail(error)

    def _hand_over(self, job: Job) -> None:
        taker = self._next_taker()
        if taker is not None:
            taker.set_result(self._taken(job))
        else:
            self._jobs.append(job)

    def _next_taker(self) -> asyncio.Future[Job] | None:
        """Who has waited longest; a taker whose task was cancelled has not left the line yet and is passed over."""
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                return taker
        return None

    def next(self) -> Job:
        """The job at the head, without waiting. In a heap of equals the last one moves to the head behind it, and sinks
        nowhere."""
        job = self._jobs.popleft()
        if self.order == "heap" and self._jobs:
            self._jobs.appendleft(self._jobs.pop())
        return self._taken(job)

    def _taken(self, job: Job) -> Job:
        job.taken_ns = time.monotonic_ns()
        return job


async def collect_batch(
    queue: JobQueue, batch_size: int, max_batch_delay_ms: int, idle_s: float | None = None
) -> list[Job] | None:
    """The next batch by DJL's rule; None when no job came within `idle_s` (None: wait for ever). A suspect is a batch
    alone.

    Jobs cancelled meanwhile are left out, so it may come out empty. When this is cancelled, what was collected goes
    back to the head of the queue.
    """
    first = await queue.take(idle_s)
    if first is None:
        return None
    if first.is_suspect:
        return [] if first.is_cancelled else [first]
    jobs = [first, *queue.drain(batch_size - 1)]
    budget_s = max_batch_delay_ms / 1e3
    clock = asyncio.get_running_loop().time
    begin = clock()
    try:
        while len(jobs) < batch_size:
            job = await queue.take(budget_s)
            if job is None:
                break
            if job.is_suspect:
                queue.put_back([job])
                break
            jobs.append(job)
            now = clock()
            budget_s -= now - begin
            begin = now
            if budget_s <= 0:
                break
    except asyncio.CancelledError:
        queue.put_back(jobs)
        raise
    return [job for job in jobs if not job.is_cancelled]
