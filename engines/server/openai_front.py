"""OpenAI's paths of the model server: /v1/models, /v1/completions and /v1/chat/completions over the same queue.

Status codes are those of the other paths; an error's body is OpenAI's {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from engines.errors import ModelInvalid, RequestInvalid
from engines.models.chat_template import ChatTemplate
from engines.models.checkpoint.kind import ModelKind, template_text
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
from engines.server.metrics import ServerMetrics
from engines.server.openai_answers import DONE, Answers, error_body, event
from engines.server.openai_body import OpenAiBody, parse_chat, parse_completion
from engines.server.pool import WorkerPool
from engines.server.queue import Job
from engines.server.worker_link import ModelError, WorkerCrashed

Parse = Callable[[bytes], OpenAiBody]

_FIELD = re.compile(r"([a-z_]+)(?:\[\d+\]|\.[a-z_]+)*: ")
"""How a message about one field of a request begins."""


class ModelUnknown(Exception):
    """The request names another model than the one here; it becomes 404."""


class OpenAiFront:
    """The handlers of one model."""

    def __init__(self, pool: WorkerPool, metrics: ServerMetrics, model_name: str) -> None:
        self._pool = pool
        self._metrics = metrics
        self._model_name = model_name
        self._folder = pool.spec.model_dir
        self._kind = pool.kind
        self._template = _template_of(self._folder, self._kind)
        self._began = int(time.time())

    @property
    def routes(self) -> list[Route]:
        """The paths that these handlers answer."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """The one model here."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """The one model here, by its name."""
        try:
            self._check_name(request.path_params["name"])
        except ModelUnknown as error:
            return self._refuse(404, "model_not_found", str(error), "model")
        return JSONResponse(self._card())

    async def completions(self, request: Request) -> Response:
        """Answer prompts as they are."""
        return await self._answer(request, lambda data: parse_completion(data, self._pool.defaults))

    async def chat(self, request: Request) -> Response:
        """Answer messages, rendered by the model's chat template."""
        return await self._answer(request, self._parse_chat)

    def _parse_chat(self, data: bytes) -> OpenAiBody:
        asked = parse_chat(data, self._pool.defaults, self._kind.max_positions if self._kind else None)
        if isinstance(self._template, str):
            raise RequestInvalid(self._template)
        text = self._template.render(asked.messages, asked.variables, add_generation_prompt=asked.add_generation_prompt)
        return dataclasses.replace(asked, body=dataclasses.replace(asked.body, inputs=(text,)))

    async def _answer(self, request: Request, parse: Parse) -> Response:
        begin = time.monotonic()
        try:
            asked = parse(await read_body(request, self._pool.settings.max_request_size_bytes))
            self._check_name(asked.model)
            jobs = self._pool.submit(asked.body)
            answers = Answers(asked, self._model_name)
            result = self._stream(answers, jobs[0]) if asked.body.wants_stream else self._whole(answers, jobs)
            response = await unless_client_leaves(self._pool, request, jobs, result)
        except BodyTooLarge as error:
            return self._refuse(413, "BodyTooLarge", str(error), headers={"connection": "close"})
        except ModelUnknown as error:
            return self._refuse(404, "model_not_found", str(error), "model")
        except ClientDisconnect:
            return self._refuse(CLIENT_LEFT, "ClientDisconnect", "the client left")
        except tuple(STATUS_OF) as error:
            field = _FIELD.match(str(error)) if isinstance(error, RequestInvalid) else None
            return self._refuse(
                STATUS_OF[type(error)], type(error).__name__, str(error), field.group(1) if field else None
            )
        if not asked.body.wants_stream:
            self._metrics.requests.labels("200").inc()
            self._metrics.latency_s.observe(time.monotonic() - begin)
        return response

    async def _whole(self, answers: Answers, jobs: list[Job]) -> Response:
        found = await all_results(self._pool, jobs)
        self._metrics.tokens.inc(sum(answer["generated_tokens"] for answer in found))
        return AnswerResponse(answers.whole(found))

    async def _stream(self, answers: Answers, job: Job) -> Response:
        first = await first_token(job)
        return StreamingResponse(self._events(answers, job, first), media_type="text/event-stream")

    async def _events(self, answers: Answers, job: Job, token: Answer | None) -> AsyncIterator[bytes]:
        assert job.tokens is not None
        code = str(CLIENT_LEFT)
        try:
            while token is not None:
                yield event(answers.token(token))
                token = await job.tokens.get()
            try:
                answer = await job.result
            except (ModelError, WorkerCrashed, RequestInvalid) as error:
                code = str(STATUS_OF[type(error)])
                yield event(error_body(int(code), type(error).__name__, str(error)))
                yield DONE
                return
            self._metrics.tokens.inc(answer["generated_tokens"])
            code = "200"
            for chunk in answers.end(answer):
                yield event(chunk)
            yield DONE
            self._metrics.latency_s.observe((time.monotonic_ns() - job.queued_ns) / 1e9)
        finally:
            self._metrics.requests.labels(code).inc()
            if code == str(CLIENT_LEFT):
                self._pool.cancel(job)

    def _card(self) -> Answer:
        return {
            "id": self._model_name,
            "object": "model",
            "created": self._began,
            "owned_by": "dynamometer",
            "root": str(self._folder.resolve()),
            "max_model_len": self._kind.max_positions if self._kind else None,
        }

    def _check_name(self, name: str | None) -> None:
        if name is not None and name != self._model_name:
            raise ModelUnknown(f"no model {name!r} here; this server has {self._model_name!r}")

    def _refuse(
        self, code: int, kind: str, message: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        self._metrics.requests.labels(str(code)).inc()
        return JSONResponse(error_body(code, kind, message, param), code, headers)


def _template_of(folder: Path, kind: ModelKind | None) -> ChatTemplate | str:
    """The model's chat template, or why there is no chat."""
    if kind is not None and not kind.is_decoder:
        return f"an encoder-decoder model ({kind.model_type}) has no chat; send the prompt to /v1/completions"
    if not template_text(folder):
        return "the model has no chat template; send the prompt to /v1/completions"
    try:
        return ChatTemplate.load(folder)
    except ModelInvalid as error:
        return str(error)
