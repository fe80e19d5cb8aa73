"""One keep-alive HTTP/1.1 connection of the load client, with monotonic time stamps taken at the socket.

The send is stamped just before the first byte is handed to the kernel. A receipt is stamped by the kernel when the
bytes arrived (SO_TIMESTAMPNS), so that neither the event loop nor the parsing of other answers is part of any latency;
over TLS, just after they were read. Runs on a gevent hub: import it only in a load process.
"""

from __future__ import annotations

import contextlib
import functools
import socket as std_socket
import ssl
import struct
import time
from collections.abc import Callable

import gevent
from gevent import socket
from geventhttpclient.response import HTTPParseError, HTTPResponse

from engines.processes.http_look import trusted
from harness.load.client.raw_records import Exchange
from harness.load.protocol.request_form import Address
from harness.units import NS_PER_S

MAX_BODY_BYTES = 16 << 20
"""An answer longer than this is not kept: the request is a 'bad_body'."""
END_GRACE_S = 0.05
"""A stream ends at [DONE]. The end of its HTTP message follows at once, or the connection is dropped after this."""
_DONE_TAIL = 20
"""Bytes at the end of a body in which the line of [DONE] and its line ends stand."""
_DONE_LINES = (b"\ndata: [DONE]", b"\ndata:[DONE]")

READ_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 10.0

SO_TIMESTAMPNS = 35
"""asm-generic/socket.h; the message that carries the stamp has the same number (a timespec of CLOCK_REALTIME)."""
_STAMP = struct.Struct("qq")
_ANCILLARY_BYTES = std_socket.CMSG_SPACE(_STAMP.size)
MAX_STAMP_AGE_NS = 10 * NS_PER_S
"""A stamp older than this, or from the future, means that the wall clock was set meanwhile; then it is not used."""
TOGETHER_NS = 20_000
"""Two clocks that were read within this time count as read at once."""
MAX_STEP_NS = 500_000
"""The wall clock was set where it has moved by more than this against the monotonic clock."""


class Connection:
    """One user's connection; opened before it is needed, reopened when the server closed it. The user closes it.

    Where it is not kept, each request has a fresh one, opened as soon as the last one is answered.
    """

    def __init__(self, address: Address, request_timeout_s: float, keep_marks: bool, is_kept: bool = True) -> None:
        self._address = address
        self._timeout_s = request_timeout_s
        self._keep_marks = keep_marks
        self._sock: socket.socket | None = None
        self._connect_ns: int | None = None
        self._is_kept = is_kept
        self._answered = 0
        self._received = 0
        self._unsent = b""
        self.free_ns = (
            0  # when the last request left the connection free; later than its answer where the server lingers
        )

    def open(self) -> None:
        """Connect if there is no usable connection. Raises OSError."""
        if self.is_ready():
            return
        self.close()
        begin_ns = time.monotonic_ns()
        sock = socket.create_connection((self._address.host, self._address.port), timeout=CONNECT_TIMEOUT_S)
        sock.setsockopt(std_socket.IPPROTO_TCP, std_socket.TCP_NODELAY, 1)
        if self._address.is_tls:
            sock = _trusted().wrap_socket(sock, server_hostname=self._address.host)
        else:
            sock.setsockopt(std_socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.settimeout(None)
        self._sock = sock
        self._connect_ns = time.monotonic_ns() - begin_ns

    def close(self) -> None:
        """Drop the connection."""
        self._answered = 0
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def is_ready(self) -> bool:
        """False when there is no connection, the server has closed the idle one, or sent bytes nobody asked for."""
        if self._sock is None:
            return False
        try:
            _look_for_bytes(self._sock)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def start(self, exchange: Exchange, request: bytes) -> None:
        """Send without waiting for anything; where that cannot be done, `finish` will. Never raises."""
        self._unsent = request
        if self._sock is None or isinstance(self._sock, ssl.SSLSocket) or not self.is_ready():
            return
        exchange.sent_ns = time.monotonic_ns()
        try:
            sent = self._sock._sock.send(request)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(exchange, "connection_failed", f"{type(error).__name__}: {error}")
            return
        self._unsent = request[sent:]

    def finish(self, exchange: Exchange, meanwhile: Callable[[], None]) -> None:
        """Send what is unsent and read the answer; never raises for what the network or the server does.

        `meanwhile` runs after the send, while the server works, so that bookkeeping costs no latency.
        """
        if exchange.failure:
            return
        self._received = 0
        try:
            with gevent.Timeout(self._timeout_s):
                self._run(exchange, meanwhile)
        except gevent.Timeout:
            self._fail(exchange, "timed_out", f"no complete answer within {self._timeout_s:g} s")
        except (OSError, HTTPParseError) as error:
            self._fail(exchange, "connection_failed", f"{self._where()}{type(error).__name__}: {error}")
        if not self._is_kept and not exchange.failure:
            self._renew()

    def _renew(self) -> None:
        """A fresh connection for the next request; until then it is the server that keeps the user."""
        self.close()
        with contextlib.suppress(OSError):  # the next request will say what is wrong
            self.open()
        self.free_ns = time.monotonic_ns()

    def _where(self) -> str:
        """Where in a request its connection failed, for the beginning of the message."""
        if self._received:
            return f"the answer broke off after {self._received} bytes: "
        return "a kept connection was lost before any byte of the answer: " if self._answered else ""

    def exchange(self, exchange: Exchange, request: bytes, meanwhile: Callable[[], None]) -> None:
        """`start` and `finish` in one."""
        self.start(exchange, request)
        self.finish(exchange, meanwhile)

    def _run(self, exchange: Exchange, meanwhile: Callable[[], None]) -> None:
        if not exchange.sent_ns:
            begin_ns = time.monotonic_ns()
            try:
                self.open()
            finally:
                exchange.sent_ns = begin_ns  # stands for a request that could not be sent at all
            exchange.sent_ns = time.monotonic_ns()
        assert self._sock is not None
        if self._unsent:
            self._sock.sendall(self._unsent)
        exchange.connect_ns, self._connect_ns = self._connect_ns, None
        meanwhile()
        self._read(self._sock, exchange)

    def _read(self, sock: socket.socket, exchange: Exchange) -> None:
        data, at_ns = _receive(sock)
        self._received = len(data)
        if not self._keep_marks and _quick(data, exchange):
            exchange.done_ns = self.free_ns = at_ns
            self._answered += 1
            return
        response = HTTPResponse(method="POST")
        is_whole = False
        while True:
            response.feed(data)
            length = len(response._body_buffer)
            if data:
                exchange.done_ns = at_ns  # where the end is the close of the connection, the answer ended before it
            if self._keep_marks and length:
                exchange.marks.append((at_ns, length))
                is_whole = response._body_buffer[-_DONE_TAIL:].rstrip().endswith(_DONE_LINES)
            if length > MAX_BODY_BYTES:
                self._fail(exchange, "bad_body", f"the answer is longer than {MAX_BODY_BYTES} bytes")
                return
            if response.message_complete and response.get_code() >= 200:
                break
            if is_whole:
                at_ns = self._end(sock, response)
                break
            if not data:
                raise HTTPParseError("the server closed the connection before the end of its answer")
            data, at_ns = _receive(sock)
            self._received += len(data)
        self.free_ns = at_ns
        self._answered += 1
        exchange.status_code = response.get_code()
        exchange.body = bytes(response._body_buffer)
        exchange.input_header = str(response.get("x-dyno-input-tokens", ""))
        exchange.output_header = str(response.get("x-dyno-tokens", ""))
        if not response.message_complete or response.should_close():
            self.close()

    def _end(self, sock: socket.socket, response: HTTPResponse) -> int:
        """Read the end of a message whose answer is whole; when that was over, monotonic ns."""
        with gevent.Timeout(END_GRACE_S, False), contextlib.suppress(OSError, HTTPParseError):
            while not response.message_complete:
                data, at_ns = _receive(sock)
                response.feed(data)
                if not data or response.message_complete:
                    return at_ns
        return time.monotonic_ns()

    def _fail(self, exchange: Exchange, failure: str, error: str) -> None:
        exchange.done_ns = self.free_ns = time.monotonic_ns()
        exchange.failure = failure
        exchange.error = error
        self._unsent = b""
        self.close()


@functools.cache
def _trusted() -> ssl.SSLContext:
    """See `trusted`, read once: it takes 20 ms."""
    return trusted()


def _look_for_bytes(sock: socket.socket) -> None:
    """Raises BlockingIOError or SSLWantReadError where nothing has come. An end, or bytes, raise nothing; other
    OSErrors: the connection is lost."""
    if not isinstance(sock, ssl.SSLSocket):
        sock._sock.recv(1, std_socket.MSG_PEEK | std_socket.MSG_DONTWAIT)
        return
    sock.settimeout(0.0)  # an SSLSocket takes no flags; what TLS itself sends, such as a ticket, is no byte to it
    try:
        sock.recv(1)
    finally:
        sock.settimeout(None)


class StampReader:
    """Brings the kernel's stamps, which are of the wall clock, to the monotonic one.

    A process can lose its core between the readings of two clocks. So the monotonic one is read before and after, and
    counts as it was after: a pause makes an arrival later, never earlier than it was. A stamp from before the wall
    clock was set is of no use; then the arrival is when it was read.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._ahead_ns: int | None = None
        self._set_ns = 0

    def monotonic_of(self, stamp_ns: int) -> int:
        """When it was `stamp_ns` by the wall clock, monotonic ns; now, where the wall clock was set since."""
        for _ in range(5):
            before_ns, wall_ns, now_ns = self._monotonic_ns(), self._wall_ns(), self._monotonic_ns()
            if now_ns - before_ns < TOGETHER_NS:
                break
        if self._ahead_ns is not None and abs(wall_ns - now_ns - self._ahead_ns) > MAX_STEP_NS:
            self._set_ns = now_ns
        self._ahead_ns = wall_ns - now_ns
        at_ns = now_ns - (wall_ns - stamp_ns)
        return at_ns if max(self._set_ns, now_ns - MAX_STAMP_AGE_NS) < at_ns <= now_ns else now_ns


_stamps = StampReader()


def _receive(sock: socket.socket) -> tuple[bytes, int]:
    """The next bytes and when the last of them arrived, monotonic ns."""
    if isinstance(sock, ssl.SSLSocket):
        return sock.recv(READ_BYTES), time.monotonic_ns()
    data, ancillary, _, _ = sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES)
    for level, kind, stamp in ancillary:
        if level == std_socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = _STAMP.unpack(stamp)
            return data, _stamps.monotonic_of(seconds * NS_PER_S + nanoseconds)
    return data, time.monotonic_ns()


def _quick(data: bytes, exchange: Exchange) -> bool:
    """Take in an answer that came whole in one read and states its length; False leaves it to the real parser."""
    head, gap, body = data.partition(b"\r\n\r\n")
    if not gap or head[:7] != b"HTTP/1." or head[9:10] == b"1":
        return False
    fields = head.lower()
    length = _field(fields, b"content-length")
    if length != b"%d" % len(body) or b"\r\ntransfer-encoding:" in fields or b"\r\nconnection: close" in fields:
        return False
    if head[7:8] != b"1" or not head[9:12].isdigit():
        return False
    exchange.status_code = int(head[9:12])
    exchange.body = body
    exchange.input_header = _field(fields, b"x-dyno-input-tokens").decode("latin-1")
    exchange.output_header = _field(fields, b"x-dyno-tokens").decode("latin-1")
    return True


def _field(head: bytes, name: bytes) -> bytes:
    """The value of a header field in a lower-cased head; b'' when absent."""
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else b""
