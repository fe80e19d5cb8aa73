"""One keep-alive HTTP/1.1 connection that stamps the monotonic clock at the socket.

The send is stamped just before the first byte is handed to the kernel, each read just after the kernel gave bytes;
parsing the body is left to the parent process after the load. Runs on a gevent hub: import it only in a load process.
"""

from __future__ import annotations

import socket as std_socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import gevent
from gevent import socket
from geventhttpclient.response import HTTPParseError, HTTPResponse

from harness.load.bodies import Address

MAX_BODY_BYTES = 16 << 20
"""An answer longer than this is not kept: the request is a 'bad_body'."""

READ_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 10.0


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer. `failure`: '', 'timed_out', 'connection_failed' or 'bad_body'."""

    sent_ns: int
    done_ns: int = 0
    status_code: int = 0
    body: bytes = b""
    input_header: str = ""
    output_header: str = ""
    marks: list[tuple[int, int]] = field(default_factory=list)
    failure: str = ""
    error: str = ""


class Connection:
    """One user's connection; opened before it is needed, reopened when the server closed it. The user closes it."""

    def __init__(self, address: Address, request_timeout_s: float, keep_marks: bool) -> None:
        self._address = address
        self._timeout_s = request_timeout_s
        self._keep_marks = keep_marks
        self._sock: socket.socket | None = None

    def open(self) -> None:
        """Connect if there is no usable connection. Raises OSError."""
        if self._sock is not None and self._is_usable(self._sock):
            return
        self.close()
        sock = socket.create_connection((self._address.host, self._address.port), timeout=CONNECT_TIMEOUT_S)
        sock.setsockopt(std_socket.IPPROTO_TCP, std_socket.TCP_NODELAY, 1)
        if self._address.is_tls:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self._address.host)
        sock.settimeout(None)
        self._sock = sock

    def close(self) -> None:
        """Drop the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def exchange(self, request: bytes, meanwhile: Callable[[], None]) -> Exchange:
        """Send one request and read its answer; never raises for what the network or the server does.

        `meanwhile` runs after the send, while the server works, so that bookkeeping costs no latency.
        """
        exchange = Exchange(sent_ns=time.monotonic_ns())
        try:
            with gevent.Timeout(self._timeout_s):
                self._run(request, exchange, meanwhile)
        except gevent.Timeout:
            self._fail(exchange, "timed_out", f"no complete answer within {self._timeout_s:g} s")
        except (OSError, HTTPParseError) as error:
            self._fail(exchange, "connection_failed", f"{type(error).__name__}: {error}")
        return exchange

    def _run(self, request: bytes, exchange: Exchange, meanwhile: Callable[[], None]) -> None:
        self.open()
        assert self._sock is not None
        exchange.sent_ns = time.monotonic_ns()
        self._sock.sendall(request)
        meanwhile()
        self._read(self._sock, exchange)

    def _read(self, sock: socket.socket, exchange: Exchange) -> None:
        response = HTTPResponse(method="POST")
        while not (response.message_complete and response.get_code() >= 200):
            data = sock.recv(READ_BYTES)
            at_ns = time.monotonic_ns()
            response.feed(data)
            length = len(response._body_buffer)
            if self._keep_marks and length:
                exchange.marks.append((at_ns, length))
            if length > MAX_BODY_BYTES:
                self._fail(exchange, "bad_body", f"the answer is longer than {MAX_BODY_BYTES} bytes")
                return
            if not data and not response.message_complete:
                raise HTTPParseError("the server closed the connection before the end of its answer")
            exchange.done_ns = at_ns
        exchange.status_code = response.get_code()
        exchange.body = bytes(response._body_buffer)
        exchange.input_header = str(response.get("x-dyno-input-tokens", ""))
        exchange.output_header = str(response.get("x-dyno-tokens", ""))
        if response.should_close():
            self.close()

    def _fail(self, exchange: Exchange, failure: str, error: str) -> None:
        exchange.done_ns = time.monotonic_ns()
        exchange.failure = failure
        exchange.error = error
        self.close()

    @staticmethod
    def _is_usable(sock: socket.socket) -> bool:
        """False when the server has closed the idle connection, or sent bytes nobody asked for."""
        if isinstance(sock, ssl.SSLSocket):
            return sock.fileno() >= 0
        try:
            sock._sock.recv(1, std_socket.MSG_PEEK | std_socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False
