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
from typing import Any

Message = dict[str, Any]

_HEAD = struct.Struct(">I")
_READ_BYTES = 1 << 16


def pack(message: Message) -> bytes:
    """The message as it goes over the socket."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEAD.pack(len(body)) + body


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None when the other side is gone."""
    try:
        (size,) = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        message: Message = json.loads(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


class BlockingWire:
    """The worker's end: blocking, one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def send(self, *messages: Message) -> None:
        """Send all in one write. Raises ConnectionError when the front is gone."""
        self._sock.sendall(b"".join(map(pack, messages)))

    def receive(self) -> Message | None:
        """The next message, waiting for it; None when the front is gone."""
        while True:
            message = self._buffered()
            if message is not None:
                return message
            data = self._sock.recv(_READ_BYTES)
            if not data:
                return None
            self._buffer += data

    def poll(self) -> Message | None:
        """The next message if one has come already. Raises ConnectionError when the front is gone."""
        message = self._buffered()
        while message is None and select.select([self._sock], [], [], 0.0)[0]:
            data = self._sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError("the front is gone")
            self._buffer += data
            message = self._buffered()
        return message

    def _buffered(self) -> Message | None:
        if len(self._buffer) < _HEAD.size:
            return None
        (size,) = _HEAD.unpack_from(self._buffer)
        end = _HEAD.size + size
        if len(self._buffer) < end:
            return None
        message: Message = json.loads(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        return message
