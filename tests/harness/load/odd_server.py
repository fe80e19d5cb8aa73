"""A server in a thread of the test that behaves as the test says: one function per request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Odd(BaseHTTPRequestHandler):
    """Reads the body, then lets `behave` do what it wants with the connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    behave: Callable[[Odd, dict[str, Any]], None]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).behave(self, body)

    def do_GET(self) -> None:
        type(self).behave(self, {})

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        """A whole answer with a length."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def echo(odd: Odd, body: dict[str, Any]) -> None:
    """A good answer."""
    inputs = body["inputs"]
    texts = inputs if isinstance(inputs, list) else [inputs]
    rows = [{"generated_text": f"echo {text}"} for text in texts]
    odd.answer(json.dumps(rows if isinstance(inputs, list) else rows[0]).encode(), x_dyno_tokens="4")


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


@contextmanager
def odd_server(behave: Callable[[Odd, dict[str, Any]], None]) -> Iterator[str]:
    """The address of a server whose every request is handled by `behave`."""
    handler = type("OneOdd", (Odd,), {"behave": staticmethod(behave)})
    with _QuietServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
