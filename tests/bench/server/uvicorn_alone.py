"""uvicorn as our server sets it up, around an application that answers at once; prints its port."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
import uvloop

from engines.hosted import HOST
from engines.server.one_write import OneWriteProtocol

BODY = b'{"generated_text": "ok"}'


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Read the whole body, answer with a fixed one."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(
            answer, http=OneWriteProtocol, log_level="warning", access_log=False, ws="none", lifespan="off"
        )
        uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))
