"""One look at a server: the status of a GET, or why there is none."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

LOOK_TIMEOUT_S = 2.0
NOT_IMPLEMENTED = 501
"""What a server answers that knows no GET: it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What GET `url` gave: `status` and, of a redirect, its `location`; without an answer the reason, `failure`."""

    url: str
    status: int | None = None
    location: str = ""
    failure: str = ""
    body: bytes = b""

    @property
    def is_loading(self) -> bool:
        """The server answers that it cannot serve now."""
        return self.status is not None and self.status >= 500 and self.status != NOT_IMPLEMENTED

    def __str__(self) -> str:
        if self.status is None:
            return f"{self.url}: {self.failure}"
        to = f" and redirects to {self.location}" if self.location else ""
        return f"{self.url} answers {self.status}{to}"


def trusted() -> ssl.SSLContext:
    """What every connection to a server over TLS trusts: this system's authorities, or the file that SSL_CERT_FILE
    names."""
    return ssl.create_default_context()


@contextmanager
def bounded(connection: http.client.HTTPConnection, timeout_s: float) -> Iterator[socket.socket]:
    """The socket of a new connection, which is cut when `timeout_s` are over in all: a socket's own timeout bounds each
    read alone, and a page that comes byte by byte has no end. Raises TimeoutError for whatever the cut broke."""
    deadline = time.monotonic() + timeout_s
    connection.connect()
    held, is_late = connection.sock, threading.Event()

    def cut() -> None:
        is_late.set()
        with contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield held
    except (OSError, ValueError, http.client.HTTPException) as error:
        if is_late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
    if is_late.is_set():  # what came ends where it was cut
        raise TimeoutError


def look(url: str, timeout_s: float = LOOK_TIMEOUT_S, headers: Mapping[str, str] | None = None) -> Look:
    """GET `url`, its query included, within `timeout_s` in all; redirects are not followed."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with bounded(connection, timeout_s):
            connection.request("GET", target, headers=dict(headers or {}))
            response = connection.getresponse()
            body = response.read(1 << 20)
        location = response.getheader("Location", "") if 300 <= response.status < 400 else ""
        return Look(url=url, status=response.status, location=location or "", body=body)
    except (OSError, http.client.HTTPException) as error:
        return Look(url=url, failure=_reason(error, timeout_s))
    finally:
        connection.close()


def http_status(url: str, timeout_s: float = LOOK_TIMEOUT_S, headers: Mapping[str, str] | None = None) -> int | None:
    """Status of GET `url`; None when nothing answers."""
    return look(url, timeout_s, headers).status


def is_refused(url: str, timeout_s: float = 1.0) -> bool:
    """Whether nobody listens at the address. A server that is too busy to answer, or to accept, is not gone."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=timeout_s):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"TLS: {error.verify_message}; export SSL_CERT_FILE=the file of the authority that signed its certificate"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return f"{type(error).__name__}: {error}"
