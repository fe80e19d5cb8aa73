"""A proxy of the tests on loopback: counts who came, and leads every CONNECT and every http:// request to one place."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """`url` for HTTP_PROXY; `heads` are the heads of the requests that came, in order."""

    def __init__(self, server: socket.socket, target: tuple[str, int] | None, refusal: str) -> None:
        self.url = f"http://127.0.0.1:{server.getsockname()[1]}"
        self.heads: list[str] = []
        self._server = server
        self._target = target
        self._refusal = refusal or "HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n"
        self._opened: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def end(self) -> None:
        """Close every connection; no thread is left."""
        _end(self._server)
        self._threads[0].join()
        for each in self._opened:
            _end(each)
        for thread in self._threads:
            thread.join()
        for each in self._opened:
            each.close()

    def _begin(self, function: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=function, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._opened.append(client)
                self._begin(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            head, rest = _head(client)
            self.heads.append(head)
            if self._target is None:
                client.sendall(self._refusal.encode())
                client.shutdown(socket.SHUT_RDWR)
                return
            upstream = socket.create_connection(self._target)
            self._opened.append(upstream)
            if head.startswith("CONNECT "):
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                upstream.sendall(rest)
            else:
                upstream.sendall(_relative(head) + rest)
            self._begin(_pump, client, upstream)
            _pump(upstream, client)


@contextmanager
def proxy(target: tuple[str, int] | None = None, refusal: str = "") -> Iterator[Proxy]:
    """A running proxy. Whatever host is asked for, it connects to `target`; without one it answers `refusal` (502)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        running = Proxy(server, target, refusal)
        try:
            yield running
        finally:
            running.end()


def _head(client: socket.socket) -> tuple[str, bytes]:
    """The head of a request, and what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            raise ConnectionResetError
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _relative(head: str) -> bytes:
    """A request of absolute form as its server wants it; the connection ends with the answer."""
    first, *fields = head.split("\r\n")
    method, url, version = first.split(" ")
    path = urlsplit(url)._replace(scheme="", netloc="").geturl()
    kept = [line for line in fields if not line.lower().startswith(("connection", "proxy-"))]
    return "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""]).encode("latin-1")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
