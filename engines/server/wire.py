"""The wire format of messages between the model server's front and a worker: length, then JSON, on a Unix socket.

Front to worker (`kind`): load {spec, settings}, batch {batch, jobs}, admit {job}, cancel {jobs}, stop.
A job is {id, text, params, wants_stream, wants_details}, and what a request may ask beyond it (Asked).
Worker to front: loaded {facts, is_rolling}, failed {error, message} (before it ends), token {job, id, text, logprob},
done {job, ...answer} or {job, error, message}, batch_done {batch}.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]

_HEAD = struct.Struct(">I")
_READ_BYTES = 1 << 16
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def pack(message: Message) -> bytes:
    """The message as it goes over the socket."""
    body = _ENCODER.encode(message).encode()
    return _HEAD.pack(len(body)) + body


class _Inbox:
    """What has been read from the socket and is not yet taken."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def add(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Message | None:
        """The first message that is there whole."""
        if len(self._buffer) < _HEAD.size:
            return None
        (size,) = _HEAD.unpack_from(self._buffer)
        end = _HEAD.size + size
        if len(self._buffer) < end:
            return None
        message: Message = json.loads(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        return message


class FrontWire(asyncio.Protocol):
    """The front's end: `on_message` gets every message as it arrives, with no task between; `on_end` is called once,
    when the other side is gone."""

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._inbox = _Inbox()

    def data_received(self, data: bytes) -> None:
        """Pass on what is whole."""
        self._inbox.add(data)
        while (message := self._inbox.next()) is not None:
            self._on_message(message)

    def connection_lost(self, error: Exception | None) -> None:
        """Inform whoever listens."""
        self._on_end()


class BlockingWire:
    """The worker's end: blocking, one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox = _Inbox()

    def send(self, *messages: Message) -> None:
        """Send all in one write. Raises ConnectionError when the front is gone."""
        self._sock.sendall(b"".join(map(pack, messages)))

    def receive(self) -> Message | None:
        """The next message, waiting for it; None when the front is gone."""
        while True:
            message = self._inbox.next()
            if message is not None:
                return message
            data = self._sock.recv(_READ_BYTES)
            if not data:
                return None
            self._inbox.add(data)

    def poll(self) -> Message | None:
        """The next message if one has come already. Raises ConnectionError when the front is gone."""
        message = self._inbox.next()
        while message is None and select.select([self._sock], [], [], 0.0)[0]:
            data = self._sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError("the front is gone")
            self._inbox.add(data)
            message = self._inbox.next()
        return message
