"""The listening socket of a server, bound before anything is loaded; one sentence where it cannot be."""

from __future__ import annotations

import errno
import os
import socket

from engines.errors import PortTaken

BACKLOG = 4096


def listen(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: any free one). Raises PortTaken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise PortTaken(f"cannot listen on host {host!r}: {error}; use --host 127.0.0.1 or 0.0.0.0") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it; without it head and body of an answer wait 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            why = "is in use by another process"
        else:
            why = f"cannot be bound ({os.strerror(error.errno or 0)})"
        raise PortTaken(f"port {port} on {host} {why}; choose another with --port, or --port 0 for any") from error
    return listener
