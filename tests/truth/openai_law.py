"""An OpenAI server whose answers come by a law: python -m tests.truth.openai_law SEED FIRST EACH TOKENS LOG.

The first token of a request is written FIRST_MS times a lognormal factor (sigma 0.3) after its receipt, each further
one EACH_MS later, TOKENS in all. For tools that know no other protocol. Prints its port; on SIGTERM writes LOG, a line
"receipt_ns first_write_ns last_write_ns" per request: the truth to compare a tool's report with.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

SIGMA = 0.3
MODEL = "law"
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


class Law:
    """The times of answers, and the log of what was kept of them."""

    def __init__(self, seed: int, first_ms: float, each_ms: float, tokens: int) -> None:
        self.random = random.Random(seed)
        self.first_s, self.each_s, self.tokens = first_ms / 1e3, each_ms / 1e3, tokens
        self.log: list[list[int]] = []

    async def answer(self, request: Request) -> Response:
        """A completion or a chat's answer, whole or as a stream, with its usage."""
        row = [time.monotonic_ns(), 0, 0]
        self.log.append(row)
        first_s = self.first_s * self.random.lognormvariate(0.0, SIGMA)
        body: dict[str, Any] = await request.json()
        is_chat = request.url.path.endswith("/chat/completions")
        prompt = json.dumps(body["messages"]) if is_chat else str(body["prompt"])
        asked = int(body.get("max_completion_tokens") or body.get("max_tokens") or self.tokens)
        tokens = min(self.tokens, asked)
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": tokens}
        usage["total_tokens"] = sum(usage.values())
        if body.get("stream"):
            lines = self._stream(row, first_s, tokens, usage, is_chat=is_chat)
            return StreamingResponse(lines, media_type="text/event-stream")
        await self._until(row, first_s + self.each_s * (tokens - 1))
        row[1] = row[2] = time.monotonic_ns()
        text = " ".join(WORDS[at % len(WORDS)] for at in range(tokens))
        piece: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        kind = "chat.completion" if is_chat else "text_completion"
        choice = {"index": 0, "finish_reason": "length", **piece}
        head = {"id": "a", "object": kind, "created": 0, "model": MODEL}
        return JSONResponse({**head, "choices": [choice], "usage": usage})

    async def _stream(
        self, row: list[int], first_s: float, tokens: int, usage: dict[str, int], *, is_chat: bool
    ) -> AsyncIterator[str]:
        head = {"id": "a", "object": "chat.completion.chunk" if is_chat else "text_completion", "created": 0}
        for at in range(tokens):
            await self._until(row, first_s + self.each_s * at)
            row[2] = time.monotonic_ns()
            row[1] = row[1] or row[2]
            text = f"{' ' if at else ''}{WORDS[at % len(WORDS)]}"
            piece: dict[str, Any] = {"delta": {"role": "assistant", "content": text}} if is_chat else {"text": text}
            reason = "length" if at == tokens - 1 else None
            choice = {"index": 0, "finish_reason": reason, **piece}
            yield f"data: {json.dumps({**head, 'model': MODEL, 'choices': [choice]})}\n\n"
        yield f"data: {json.dumps({**head, 'model': MODEL, 'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"

    async def _until(self, row: list[int], after_s: float) -> None:
        await asyncio.sleep(max(0.0, row[0] / 1e9 + after_s - time.monotonic()))


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "law"}]})


async def _health(request: Request) -> Response:
    return JSONResponse({})


async def serve(law: Law, log_path: Path) -> None:
    """Serve until SIGTERM, then write the log."""
    routes = [
        Route("/v1/completions", law.answer, methods=["POST"]),
        Route("/v1/chat/completions", law.answer, methods=["POST"]),
        Route("/v1/models", _models),
        Route("/health", _health),
        Route("/", _health),
    ]
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error", timeout_keep_alive=60))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: setattr(server, "should_exit", True))
    await server.serve(sockets=[listener])
    log_path.write_text("".join(f"{receipt} {first} {last}\n" for receipt, first, last in law.log))


if __name__ == "__main__":
    seed, first_ms, each_ms, tokens, log = sys.argv[1:]
    asyncio.run(serve(Law(int(seed), float(first_ms), float(each_ms), int(tokens)), Path(log)))
