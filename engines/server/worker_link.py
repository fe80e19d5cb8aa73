"""The model server's link to one worker process: starts it, sends it jobs, and passes its answers on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from engines import errors
from engines.api import EngineSpec, GenerateParams
from engines.errors import EngineError, LaunchFailed, OutOfMemory, RequestInvalid
from engines.launching import serving_python
from engines.processes.child_environment import child_environment
from engines.processes.out_of_memory import oom_kills
from engines.processes.threads import compute_threads
from engines.server.queue import NO_MORE, Job
from engines.server.wire import FrontWire, Message, pack

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ModelError(Exception):
    """The model failed on this request; it becomes 424."""


class WorkerCrashed(Exception):
    """The worker ended, or was ended for not answering, on this request; it becomes 500."""


class WorkersOutOfMemory(WorkerCrashed):
    """Workers crashed too often, the last one because the kernel ended it for its memory; why the model has failed."""


class WorkerLink:
    """One worker process. `in_flight` are the jobs it has; `cut` is set when its socket closes, `gone`
    when it has ended. `ask_again` takes the
    jobs of a worker that ended which may not be the cause; `on_room` is called when it has a job less."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        ask_again: Callable[[Sequence[Job]], None],
        on_room: Callable[[], None],
    ) -> None:
        self.process = process
        self.in_flight: dict[int, Job] = {}
        self.is_rolling = False
        self.facts: dict[str, Any] = {}
        self.gone = asyncio.Event()
        self.crash_reason = ""
        self.ran_out_of_memory = False
        self.found_culprit = False
        """It ended on a job that was asked again alone: the cause of an earlier crash."""
        self._ask_again = ask_again
        self._on_room = on_room
        self._oom_kills = oom_kills()
        self._loading: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._batch_done: asyncio.Future[None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._ending: asyncio.Task[None] | None = None
        self.cut = asyncio.Event()

    @classmethod
    async def start(
        cls,
        spec: EngineSpec,
        number: int,
        ask_again: Callable[[Sequence[Job]], None],
        on_room: Callable[[], None] = lambda: None,
    ) -> WorkerLink:
        """A worker process before it has loaded."""
        ours, theirs = socket.socketpair()
        python = str(serving_python(spec.engine, spec.python) or sys.executable)
        env = {**os.environ, "DYNO_WORKER": str(number), "DYNO_FRONT_PYTHON": sys.executable}
        env |= child_environment(python)
        env.update(dict.fromkeys(THREAD_VARIABLES, str(compute_threads(spec))))
        argv = ("-u", "-m", "engines.server.worker", str(theirs.fileno()), str(os.getpid()))
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    python, *argv, stdin=asyncio.subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=env
                )
            except OSError as error:
                ours.close()
                raise LaunchFailed(f"cannot start a worker process: {error}") from error
        link = cls(process, ask_again, on_room)
        link._transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: FrontWire(link._on_message, link._on_cut), sock=ours
        )
        return link

    async def load(self, spec: EngineSpec, timeout_s: float) -> None:
        """Have it load `spec`. Raises what the backend raised, or LaunchFailed, OutOfMemory, NotReady."""
        self._send({"kind": "load", "spec": spec.as_message()})
        try:
            async with asyncio.timeout(timeout_s):
                message = await asyncio.shield(self._loading)
        except TimeoutError:
            raise errors.NotReady(
                f"a worker had not loaded {spec.model_dir} after option.model_loading_timeout={timeout_s:g} s"
            ) from None
        if message is None:
            raise await self._died_loading()
        if message["kind"] == "failed":
            kind: type[EngineError] = getattr(errors, message["error"], LaunchFailed)
            raise kind(message["message"])
        self.facts = message["facts"]
        self.is_rolling = message["is_rolling"]
        if self.cut.is_set():
            self._end()

    async def serve_batch(self, jobs: Sequence[Job], timeout_s: float) -> None:
        """Send a batch and return when all of it is answered. Ends the worker when that takes longer than
        `timeout_s`; raises WorkerCrashed when the worker ended (its jobs are settled already)."""
        self._batch_done = asyncio.get_running_loop().create_future()
        self.in_flight = {job.job_id: job for job in jobs}
        self._send({"kind": "batch", "batch": jobs[0].job_id, "jobs": [_wire_job(job) for job in jobs]})
        try:
            async with asyncio.timeout(timeout_s):
                await self._batch_done
        except TimeoutError:
            self.crash_reason = f"no answer within option.predict_timeout={timeout_s:g} s"
            self.kill()
            await self.gone.wait()
            raise WorkerCrashed(self.crash_reason) from None

    def admit(self, job: Job) -> None:
        """Send one job to a rolling worker."""
        self.in_flight[job.job_id] = job
        self._send({"kind": "admit", "job": _wire_job(job)})

    def cancel(self, job: Job) -> None:
        """Inform the worker that nobody waits for `job` any more."""
        if job.job_id in self.in_flight:
            self._send({"kind": "cancel", "jobs": [job.job_id]})
            if self.is_rolling:
                del self.in_flight[job.job_id]
                self._on_room()

    def kill(self) -> None:
        """End the process now."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def stop(self, grace_s: float) -> None:
        """Ask it to close, wait up to `grace_s`, then end it."""
        self._send({"kind": "stop"})
        try:
            async with asyncio.timeout(grace_s):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()
        await self.close()

    async def close(self) -> None:
        """Release the socket once the process has ended."""
        await self.process.wait()
        if self.facts:
            await self.cut.wait()
        if self._ending is not None:
            await self._ending
        if self._transport is not None:
            self._transport.close()

    def _send(self, message: Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pack(message))

    async def _died_loading(self) -> LaunchFailed:
        how = exit_words(await self.process.wait())
        if oom_kills() > self._oom_kills:
            return OutOfMemory(f"a worker ran out of memory while loading ({how}, the kernel ended it)")
        return LaunchFailed(f"a worker {how} while loading, without saying why; see the log above")

    def _on_message(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "token":
            self._on_token(message)
        elif kind == "done":
            self._settle(message)
        elif kind == "batch_done":
            if self._batch_done is not None and not self._batch_done.done():
                self._batch_done.set_result(None)
        elif not self._loading.done():  # loaded, or failed
            self._loading.set_result(message)

    def _on_cut(self) -> None:
        """The socket closed: the process is ending."""
        self.cut.set()
        if not self._loading.done():
            self._loading.set_result(None)
        if self.facts:
            self._end()

    def _end(self) -> None:
        self._ending = asyncio.create_task(self._on_gone())

    def _on_token(self, message: Message) -> None:
        job = self.in_flight.get(message["job"])
        if job is not None and job.tokens is not None:
            job.has_begun = True
            job.tokens.put_nowait(message)

    def _settle(self, message: Message) -> None:
        job = self.in_flight.pop(message["job"], None)
        self._on_room()
        if job is None or job.result.done():
            return
        if "error" not in message:
            job.result.set_result(message)
        elif message["error"] == "RequestInvalid":
            job.result.set_exception(RequestInvalid(message["message"]))
        else:
            job.result.set_exception(ModelError(message["message"]))
        if job.tokens is not None:
            job.tokens.put_nowait(None)

    async def _on_gone(self) -> None:
        """What the process had: a job that was in flight alone is answered with an error, and so is a stream that has
        begun; of several, each of the others is asked again alone."""
        self.kill()
        how = exit_words(await self.process.wait())
        if not self.crash_reason:
            self.ran_out_of_memory = oom_kills() > self._oom_kills
            memory = "ran out of memory: the kernel ended it; it " if self.ran_out_of_memory else ""
            self.crash_reason = f"the worker {memory}{how}"
        lost = list(self.in_flight.values())
        self.in_flight.clear()
        suspects = [job for job in lost if not job.has_begun and not job.result.done()] if len(lost) > 1 else []
        self.found_culprit = len(lost) == 1 and lost[0].is_suspect
        why = "alone, so it may be the cause" if len(lost) == 1 else "and had begun to stream; send it again"
        for job in lost:
            if job not in suspects:
                job.fail(WorkerCrashed(f"{self.crash_reason}; this request was in flight {why}"))
        if self._batch_done is not None and not self._batch_done.done():
            self._batch_done.set_exception(WorkerCrashed(self.crash_reason))
        self.gone.set()
        for job in suspects:
            job.is_suspect = True
        self._ask_again(suspects)


def _wire_job(job: Job) -> Message:
    return {
        "id": job.job_id,
        "text": job.text,
        "params": _wire_params(job.params),
        "wants_stream": job.tokens is not None,
        "wants_details": job.wants_details,
        "ids": job.ids,
        **({} if job.asked is NO_MORE else asdict(job.asked)),
    }


@functools.lru_cache(maxsize=256)
def _wire_params(params: GenerateParams) -> Message:
    return asdict(params)


def exit_words(status: int) -> str:
    """'ended by signal 9' or 'ended with status 3'."""
    return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
