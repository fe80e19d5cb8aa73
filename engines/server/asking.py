"""Common ground of the model server's request handlers: a body read, a client waited with, a status for each error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from engines.errors import RequestInvalid
from engines.server.pool import NoWorkers, WorkerPool
from engines.server.queue import Job, QueueFull
from engines.server.worker_link import ModelError, WorkerCrashed

STATUS_OF: dict[type[Exception], int] = {
    RequestInvalid: 400,
    ModelError: 424,
    WorkerCrashed: 500,
    QueueFull: 503,
    NoWorkers: 503,
}
CLIENT_LEFT = 499

Answer = dict[str, Any]


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class AnswerResponse(JSONResponse):
    """A JSONResponse whose encoder is made once."""

    def render(self, content: Any) -> bytes:
        """The bytes that JSONResponse gives."""
        return _ENCODER.encode(content).encode()


class BodyTooLarge(Exception):
    """The request body is larger than max_request_size; it becomes 413."""


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known to exceed `limit_bytes`, ClientDisconnect."""
    message = f"the body is larger than max_request_size={limit_bytes} bytes; send fewer inputs per request"
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise BodyTooLarge(message)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit_bytes:
            raise BodyTooLarge(message)
    return bytes(data)


async def all_results(pool: WorkerPool, jobs: Sequence[Job]) -> list[Answer]:
    """Every job's answer; where one fails the others are cancelled."""
    if len(jobs) == 1:
        return [await jobs[0].result]
    try:
        return list(await asyncio.gather(*(job.result for job in jobs)))
    except Exception:
        for job in jobs:
            pool.cancel(job)
        raise


async def first_token(job: Job) -> Answer | None:
    """A stream's first token, None where the answer has none; waited for, so that a failure before it still has its
    own status code."""
    assert job.tokens is not None
    first = await job.tokens.get()
    if first is None:
        await job.result
    return first


async def unless_client_leaves(
    pool: WorkerPool, request: Request, jobs: Sequence[Job], result: Awaitable[Response]
) -> Response:
    """`result`, unless the client goes away first: then the jobs are cancelled, which ends the waiting for them, and
    ClientDisconnect is raised."""
    has_left = False

    def cancel() -> None:
        for job in jobs:
            pool.cancel(job)
            if job.tokens is not None:
                job.tokens.put_nowait(None)

    def leave(watch: asyncio.Future[Any]) -> None:
        nonlocal has_left
        if not watch.cancelled():
            has_left = True
            cancel()

    leaving = asyncio.ensure_future(request.receive())
    leaving.add_done_callback(leave)
    try:
        return await result
    except asyncio.CancelledError:
        cancel()
        if has_left:
            raise ClientDisconnect from None
        raise
    finally:
        leaving.remove_done_callback(leave)
        leaving.cancel()
