"""The model server's HTTP application: /ping, /invocations, /predictions/<name>, /metrics, /facts and OpenAI's /v1.

Status codes: 200; 400 bad input; 404 unknown path or model; 413 body too large; 424 the model failed; 499 (metrics
only) the client left; 500 the worker crashed or overran predict_timeout; 503 queue full, loading, failed, or draining.
An error's body is {"code", "type", "message"}, below /v1 OpenAI's.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from engines.errors import RequestInvalid
from engines.server.answers import details, shape
from engines.server.asking import (
    CLIENT_LEFT,
    STATUS_OF,
    Answer,
    AnswerResponse,
    BodyTooLarge,
    all_results,
    first_token,
    read_body,
    unless_client_leaves,
)
from engines.server.body import Body, parse_body
from engines.server.metrics import CONTENT_TYPE, ServerMetrics
from engines.server.openai_answers import error_body
from engines.server.openai_front import OpenAiFront
from engines.server.pool import WorkerPool
from engines.server.queue import Job
from engines.server.worker_link import ModelError, WorkerCrashed

STREAM_TYPE = "application/jsonlines"


class Front:
    """The request handlers of one model."""

    def __init__(self, pool: WorkerPool, metrics: ServerMetrics, model_name: str, notes: Sequence[str] = ()) -> None:
        self._pool = pool
        self._metrics = metrics
        self.model_name = model_name
        self._notes = notes
        self._answered = metrics.requests.labels("200")

    async def ping(self, request: Request) -> Response:
        """200 Healthy while the model serves, else 503 with why not."""
        status = self._pool.status
        if status.state == "ready":
            return JSONResponse({"status": "Healthy"})
        return JSONResponse({"status": status.state, "message": str(status.error or "")}, 503)

    async def facts(self, request: Request) -> Response:
        """What really runs."""
        facts = self._pool.facts()
        facts["notes"] = [*self._notes, *facts["notes"]]
        return JSONResponse({"model_name": self.model_name, "state": self._pool.status.state, **facts})

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def predictions(self, request: Request) -> Response:
        """/predictions/<name>: as /invocations, 404 for a model this server does not have."""
        name = request.path_params["name"]
        if name != self.model_name:
            return self._refuse(404, "ModelNotFound", f"no model {name!r} here; this server has {self.model_name!r}")
        return await self.invocations(request)

    async def invocations(self, request: Request) -> Response:
        """Answer one request; every outcome is counted."""
        begin = time.monotonic()
        try:
            body = parse_body(await read_body(request, self._pool.settings.max_request_size_bytes), self._pool.defaults)
            jobs = self._pool.submit(body)
            answer = await unless_client_leaves(self._pool, request, jobs, self._first_result(body, jobs))
        except BodyTooLarge as error:
            return self._refuse(413, "BodyTooLarge", str(error), {"connection": "close"})
        except ClientDisconnect:
            return self._refuse(CLIENT_LEFT, "ClientDisconnect", "the client left")
        except tuple(STATUS_OF) as error:
            return self._refuse(STATUS_OF[type(error)], type(error).__name__, str(error))
        if isinstance(answer, StreamingResponse):
            return answer
        self._answered.inc()
        self._metrics.latency_s.observe(time.monotonic() - begin)
        return answer

    def _refuse(self, code: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
        self._metrics.requests.labels(str(code)).inc()
        return JSONResponse({"code": code, "type": kind, "message": message}, code, headers)

    async def _first_result(self, body: Body, jobs: Sequence[Job]) -> Response:
        """The whole answer, or, when streaming, the response once its first token is there."""
        if body.wants_stream:
            return await self._stream(body, jobs[0])
        return self._whole(body, await all_results(self._pool, jobs))

    def _whole(self, body: Body, answers: Sequence[Answer]) -> Response:
        output_tokens = sum(answer["generated_tokens"] for answer in answers)
        self._metrics.tokens.inc(output_tokens)
        shaped = [shape(answer, body.wants_details) for answer in answers]
        input_tokens = sum(answer["input_tokens"] for answer in answers)
        headers = {
            "x-dyno-tokens": str(output_tokens),
            "x-dyno-input-tokens": str(input_tokens),
            # The one header of a container's that SageMaker hands on to the caller.
            "x-amzn-sagemaker-custom-attributes": f"tokens={output_tokens},input-tokens={input_tokens}",
        }
        return AnswerResponse(shaped if body.is_list else shaped[0], headers=headers)

    async def _stream(self, body: Body, job: Job) -> StreamingResponse:
        first = await first_token(job)
        return StreamingResponse(self._lines(body, job, first), media_type=STREAM_TYPE)

    async def _lines(self, body: Body, job: Job, token: Answer | None) -> AsyncIterator[bytes]:
        assert job.tokens is not None
        begin = job.queued_ns
        code = "499"
        try:
            while token is not None:
                yield _line({"token": {"id": token["id"], "text": token["text"], "log_prob": token["logprob"]}})
                token = await job.tokens.get()
            try:
                answer = await job.result
            except (ModelError, WorkerCrashed, RequestInvalid) as error:
                code = str(STATUS_OF[type(error)])
                yield _line({"error": str(error), "type": type(error).__name__, "code": int(code)})
                return
            self._metrics.tokens.inc(answer["generated_tokens"])
            code = "200"
            yield _line({"generated_text": answer["text"], "details": details(answer, with_tokens=body.wants_details)})
            self._metrics.latency_s.observe((time.monotonic_ns() - begin) / 1e9)
        finally:
            self._metrics.requests.labels(code).inc()
            if code == "499":
                self._pool.cancel(job)


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (404, 405) in our error shape, or OpenAI's."""
    assert isinstance(error, HTTPException)
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HTTPError")
    message = f"{request.method} {request.url.path}: {error.detail}"
    if request.url.path.startswith("/v1/"):
        return JSONResponse(error_body(error.status_code, kind, message), error.status_code, headers=error.headers)
    return JSONResponse(
        {"code": error.status_code, "type": kind, "message": message}, error.status_code, headers=error.headers
    )


class Application:
    """The ASGI application. A request for an answer reaches its handler at once; Starlette's layers do the rest."""

    def __init__(self, front: Front, model_name: str, rest: Starlette) -> None:
        self._paths = dict.fromkeys(("/invocations", f"/predictions/{model_name}"), front.invocations)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or do what the server asks of an application."""
        handler = self._paths.get(scope["path"]) if scope.get("method") == "POST" else None
        if handler is None:
            await self._rest(scope, receive, send)
            return
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)


def build_app(front: Front, openai: OpenAiFront, lifespan: Callable[[Starlette], Any]) -> Application:
    """The ASGI application of one model."""
    routes = [  # looked through in this order
        Route("/invocations", front.invocations, methods=["POST"]),
        Route("/predictions/{name}", front.predictions, methods=["POST"]),
        Route("/ping", front.ping, methods=["GET"]),
        Route("/health", front.ping, methods=["GET"]),
        Route("/facts", front.facts, methods=["GET"]),
        Route("/metrics", front.metrics, methods=["GET"]),
        *openai.routes,
    ]
    rest = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: http_error})
    return Application(front, front.model_name, rest)


def _line(value: Answer) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
