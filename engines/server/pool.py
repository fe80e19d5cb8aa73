"""The model server's pool of workers, which start, restart and end around one job queue, as in DJL Serving.

`workers` of the spec is maxWorkers, `min_workers` of the settings how many are permanent. While fewer run than may and
more than 2 x batch_size jobs wait, one temporary worker is added per request; it ends when idle for max_idle_time. A
worker that crashes is started again until the model has crashed more than retry_threshold times; then it is FAILED. Of
several requests that a crashed worker had, each is asked again alone, so that only the one at fault fails.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from engines.api import EngineSpec
from engines.errors import EngineError, RequestInvalid
from engines.models.checkpoint.generation_defaults import generation_defaults
from engines.models.checkpoint.kind import model_kind
from engines.server.body import Body
from engines.server.metrics import ServerMetrics
from engines.server.queue import Job, JobQueue, QueueFull, collect_batch
from engines.server.worker_link import WorkerCrashed, WorkerLink, WorkersOutOfMemory
from engines.serving_properties.read import ServerSettings

logger = logging.getLogger("dyno.server")

WorkerState = Literal["starting", "ready", "busy", "stopped"]
PoolState = Literal["loading", "ready", "failed", "stopped"]
MOST_CHARACTERS = 512
"""Of one token; above any vocabulary's longest, so that only hopeless prompts are refused before they are tokenized."""
ROLLING_CHECK_S = 1.0


class NoWorkers(Exception):
    """Nothing serves: the model is loading, has failed, or is shutting down; it becomes 503."""


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """One place for a worker; the process behind it may be started again after a crash."""

    number: int
    is_temporary: bool
    state: WorkerState = "starting"
    link: WorkerLink | None = None
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, kw_only=True)
class PoolStatus:
    """Where the model stands; `error` is why it failed. Of `crashes`, `charged` count towards retry_threshold: finding
    the cause of one (`unexplained`) by a second one is charged once. `changed` is set at every change of state and at
    every crash."""

    state: PoolState = "loading"
    error: EngineError | Exception | None = None
    crashes: int = 0
    charged: int = 0
    unexplained: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerPool:
    """Used by one event loop. `start` begins loading; `stop` or `kill` must be called at the end."""

    def __init__(self, spec: EngineSpec, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self.spec = spec
        self.settings = settings
        self.metrics = metrics
        self.defaults = generation_defaults(spec.model_dir).values
        self.kind = model_kind(spec.model_dir) if (spec.model_dir / "config.json").is_file() else None
        """What the folder holds; None without config.json (the fake engine needs no model)."""
        self.queue = JobQueue(spec.job_queue_size, spec.queue_order)
        self.status = PoolStatus()
        self.workers: list[Worker] = []
        self._last_job = 0
        self._last_worker = 0
        self._rolling: list[tuple[Worker, WorkerLink]] = []
        """Workers with in-flight batching that serve now."""
        count = {state: functools.partial(self._in_state, state) for state in get_args(WorkerState)}
        metrics.watch(lambda: len(self.queue), self._running, count)

    def start(self) -> None:
        """Start the permanent workers, all at once."""
        count = self.spec.workers if self.settings.min_workers is None else self.settings.min_workers
        for _ in range(count):
            self._add_worker(is_temporary=False)

    def submit(self, body: Body) -> list[Job]:
        """One job per input, queued; as one where DJL's rules hold. Raises RequestInvalid, NoWorkers, QueueFull."""
        if self.status.state != "ready":
            raise NoWorkers(
                f"the model is {self.status.state}" + (f": {self.status.error}" if self.status.error else "")
            )
        for prompt in body.inputs:
            self._check_prompt(prompt)
        loop = asyncio.get_running_loop()
        jobs = []
        for prompt in body.inputs:
            self._last_job += 1
            job = Job(
                job_id=self._last_job,
                text=prompt if isinstance(prompt, str) else "",
                ids=() if isinstance(prompt, str) else prompt,
                params=body.params,
                asked=body.asked,
                wants_details=body.wants_details,
                tokens=asyncio.Queue() if body.wants_stream else None,
                result=loop.create_future(),
            )
            jobs.append(job)
        waiting = jobs
        if self.queue.order != "fifo" and self.spec.rolling_batch == "disable":
            waiting, jobs[0].mates = jobs[:1], tuple(jobs[1:])
        try:
            self.queue.offer(waiting, are_all_busy=all(worker.state != "ready" for worker in self.workers))
        except QueueFull:
            self._scale_up()
            raise
        self._hand_out()
        if len(self.queue) > 2 * self.spec.batch_size:
            self._scale_up()
        return jobs

    def _check_prompt(self, prompt: str | tuple[int, ...]) -> None:
        """What would hold up or harm a worker: token ids of another model's, a text far beyond the context."""
        if self.kind is None:
            return
        if not isinstance(prompt, str) and max(prompt) >= self.kind.vocab_size:
            raise RequestInvalid(
                f"prompt: token id {max(prompt)} is outside this model's 0..{self.kind.vocab_size - 1}"
            )
        context = self.kind.max_positions
        if context is not None and len(prompt) > context * MOST_CHARACTERS:
            raise RequestInvalid(
                f"the prompt has {len(prompt)} characters, which cannot be {context} tokens, this model's context; "
                "shorten it"
            )

    def cancel(self, job: Job) -> None:
        """Nobody waits for `job` any more: forget it, wherever it is."""
        self.queue.discard(job)
        job.result.cancel()
        for worker in self.workers:
            if worker.link is not None:
                worker.link.cancel(job)

    def facts(self) -> dict[str, Any]:
        """Effective dtype, versions, load seconds (the slowest worker's) and notes of the loaded workers, and who they
        are."""
        loaded = [worker.link.facts for worker in self.workers if worker.link is not None and worker.link.facts]
        first = loaded[0] if loaded else {"effective_dtype": "", "versions": {}, "load_s": 0.0, "notes": []}
        return {
            **first,
            "queue_order": self.queue.order,
            "load_s": max((facts["load_s"] for facts in loaded), default=0.0),
            "notes": list(dict.fromkeys(note for facts in loaded for note in facts["notes"])),
            "workers": [
                {
                    "number": worker.number,
                    "pid": worker.link.process.pid if worker.link else None,
                    "state": worker.state,
                    "is_temporary": worker.is_temporary,
                }
                for worker in self.workers
            ],
        }

    async def stop(self, grace_s: float = 5.0) -> None:
        """End every worker, cleanly where it reacts within `grace_s`. Jobs still waiting are answered with an error."""
        self._set_state("stopped")
        self.queue.fail_all(NoWorkers("the server is shutting down"))
        workers = list(self.workers)
        for worker in workers:
            if worker.task is not None:
                worker.task.cancel()
        await asyncio.gather(*(worker.task for worker in workers if worker.task), return_exceptions=True)
        links = [worker.link for worker in workers if worker.link is not None]
        running = [link for link in links if link.process.returncode is None]
        await asyncio.gather(*(link.stop(grace_s if link.facts else 0.0) for link in running))

    def kill(self) -> None:
        """End every worker process now."""
        for worker in self.workers:
            if worker.link is not None:
                worker.link.kill()

    def _add_worker(self, *, is_temporary: bool) -> None:
        worker = Worker(number=self._last_worker, is_temporary=is_temporary)
        self._last_worker += 1
        self.workers.append(worker)
        worker.task = asyncio.create_task(self._run(worker))
        worker.task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a worker's task ended by %r", error, exc_info=error)
            self._fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def _scale_up(self) -> None:
        if len(self.workers) < self.spec.workers:
            logger.info("adding a temporary worker: %d jobs wait", len(self.queue))
            self._add_worker(is_temporary=True)

    async def _run(self, worker: Worker) -> None:
        """The life of one place: start, serve, and start again after a crash while the model may still crash."""
        try:
            while self.status.state in ("loading", "ready"):
                worker.state = "starting"
                if not await self._start(worker):
                    break
                is_over = await self._serve_until_gone(worker)
                if is_over or not self._may_restart(worker):
                    break
        finally:
            worker.state = "stopped"
            if worker.is_temporary and worker in self.workers:
                self.workers.remove(worker)

    async def _start(self, worker: Worker) -> bool:
        """Load the worker's process; a failure fails the model while nothing has served yet, and counts as a crash
        afterwards."""
        while True:
            try:
                worker.link = await WorkerLink.start(self.spec, worker.number, self._ask_again, self._hand_out)
                await worker.link.load(self.spec, self.settings.model_loading_timeout_s)
                break
            except EngineError as error:
                if worker.link is not None:
                    worker.link.kill()
                    await worker.link.close()
                logger.error("worker %d did not load: %s: %s", worker.number, type(error).__name__, error)
                if self.status.state == "loading":
                    self._fail(error)
                    return False
                if not self._may_restart(worker):
                    return False
        worker.state = "ready"
        permanent = [other for other in self.workers if not other.is_temporary]
        if self.status.state == "loading" and all(other.state != "starting" for other in permanent):
            self._set_state("ready")
        return True

    async def _serve_until_gone(self, worker: Worker) -> bool:
        """Serve; True when the worker ended on purpose (temporary and idle), False when its process is gone."""
        link = worker.link
        assert link is not None
        serving = asyncio.create_task(self._roll(worker, link) if link.is_rolling else self._batches(worker, link))
        gone = asyncio.create_task(link.gone.wait())
        try:
            await asyncio.wait({serving, gone}, return_when=asyncio.FIRST_COMPLETED)
            if link.gone.is_set():
                return False
            serving.result()
            await link.stop(grace_s=5.0)
            return True
        except WorkerCrashed:
            await link.gone.wait()
            return False
        finally:
            for task in (serving, gone):
                task.cancel()
            await asyncio.gather(serving, gone, return_exceptions=True)

    async def _batches(self, worker: Worker, link: WorkerLink) -> None:
        """Static batches by DJL's rule, one after the other; returns when a temporary worker has been idle."""
        spec = self.spec
        idle_s = self.settings.max_idle_time_s if worker.is_temporary else None
        while True:
            jobs = await collect_batch(self.queue, spec.batch_size, spec.max_batch_delay_ms, idle_s)
            if jobs is None:
                return
            if link.gone.is_set():  # it died while the batch was collected: another worker shall have these jobs
                self.queue.put_back(jobs)
                return
            if not jobs:
                continue
            worker.state = "busy"
            self._count_batch(jobs)
            jobs = [each for job in jobs for each in job.apart()]
            await link.serve_batch(jobs, self.settings.predict_timeout_s)
            worker.state = "ready"

    async def _roll(self, worker: Worker, link: WorkerLink) -> None:
        """In-flight batching: the worker is among those that `_hand_out` knows, until it is gone."""
        self._rolling.append((worker, link))
        try:
            self._hand_out()
            await self._watch_rolling(link)
            await link.gone.wait()
        finally:
            self._rolling.remove((worker, link))

    def _hand_out(self) -> None:
        """Give what waits to the workers with in-flight batching, each job to the one that has fewest, at once: no
        task is woken between a request, or a place that became free, and the worker."""
        while len(self.queue) and (link := self._roomiest()) is not None:
            job = self.queue.next()
            if not job.is_cancelled:
                link.admit(job)
                self._count_batch([job], in_flight=len(link.in_flight))
        for worker, link in self._rolling:
            worker.state = "ready" if self._has_room(link) else "busy"

    def _roomiest(self) -> WorkerLink | None:
        links = [link for _, link in self._rolling if self._has_room(link)]
        return min(links, key=lambda link: len(link.in_flight), default=None)

    def _has_room(self, link: WorkerLink) -> bool:
        """Whether the worker may have one more job, at most max_rolling_batch_size; a suspect is in flight alone."""
        jobs = link.in_flight
        if link.cut.is_set():
            return False
        if self.queue.is_suspect_next or (len(jobs) == 1 and next(iter(jobs.values())).is_suspect):
            return not jobs
        return len(jobs) < self.settings.max_rolling_batch_size

    def _ask_again(self, jobs: Sequence[Job]) -> None:
        self.status.unexplained += bool(jobs)
        if self.status.state in ("loading", "ready"):
            self.queue.put_back(jobs)
            self._hand_out()
        else:
            for job in jobs:
                job.fail(NoWorkers(f"the model is {self.status.state}"))

    async def _watch_rolling(self, link: WorkerLink) -> None:
        """End a rolling worker that has kept a job longer than predict_timeout."""
        timeout_s = self.settings.predict_timeout_s
        while True:
            await asyncio.sleep(min(ROLLING_CHECK_S, timeout_s / 4))
            oldest = min((job.taken_ns for job in link.in_flight.values()), default=None)
            if oldest is not None and time.monotonic_ns() - oldest > timeout_s * 1e9:
                link.crash_reason = f"no answer within option.predict_timeout={timeout_s:g} s"
                link.kill()
                return

    def _may_restart(self, worker: Worker) -> bool:
        if self.status.state not in ("loading", "ready"):
            return False
        reason = worker.link.crash_reason if worker.link else ""
        self.status.crashes += 1
        if worker.link is not None and worker.link.found_culprit and self.status.unexplained:
            self.status.unexplained -= 1
        else:
            self.status.charged += 1
        if self.status.charged > self.settings.retry_threshold:
            has_memory = worker.link is None or not worker.link.ran_out_of_memory
            crashed = WorkerCrashed if has_memory else WorkersOutOfMemory
            self._fail(
                crashed(
                    f"{reason or 'a worker did not load again'}; workers crashed {self.status.crashes} times and "
                    f"retry_threshold={self.settings.retry_threshold}"
                )
            )
            return False
        logger.error("worker %d is started again (crash %d): %s", worker.number, self.status.crashes, reason)
        self.metrics.restarts.inc()
        self.status.changed.set()
        return True

    def _fail(self, error: Exception) -> None:
        if self.status.error is None:
            self.status.error = error
        self._set_state("failed")
        self.queue.fail_all(NoWorkers(f"the model is failed: {error}"))

    def _set_state(self, state: PoolState) -> None:
        self.status.state = state
        self.status.changed.set()

    def _in_state(self, state: WorkerState) -> int:
        return sum(worker.state == state for worker in self.workers)

    def _running(self) -> int:
        return sum(len(worker.link.in_flight) for worker in self.workers if worker.link is not None)

    def _count_batch(self, jobs: list[Job], in_flight: int | None = None) -> None:
        self.metrics.batch_size.observe(len(jobs) if in_flight is None else in_flight)
        for job in jobs:
            self.metrics.queue_s.observe((job.taken_ns - job.queued_ns) / 1e9)
