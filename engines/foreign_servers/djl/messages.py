"""The messages between DJL Serving and its Python worker, written and read as its Java side does.

A message is a list of properties and a list of contents, after a status code on the way back. Numbers are big-endian;
the length of a text has 16 bits until 0.26 and 32 later. Bytes recorded on a real 0.36.0 are among the tests.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Pairs = Sequence[tuple[str, bytes]]

FIRST_WIDE = (0, 26, 0)
_IS_STREAM = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a worker sent back: a status code with its text, properties, and contents by key."""

    code: int
    message: str
    properties: Mapping[str, str]
    content: Pairs

    def bodies(self, count: int) -> list[bytes]:
        """The body for each request of a batch of `count`, by the number in its key. A status of 300 and above, and an
        answer without contents, is everybody's."""
        if count == 1 or self.code >= 300 or not self.content:
            return [b"".join(body for _, body in self.content)] * count
        found = {key.partition(".")[0].removeprefix("batch_"): body for key, body in self.content}
        return [found.get(str(index), b"") for index in range(count)]


def load_message(properties: Mapping[str, str], version: tuple[int, ...]) -> bytes:
    """The first message to a worker: what it loads; it has no contents."""
    return message({**properties, "handler": "handle"}, [], version)


def batch_message(requests: Sequence[Pairs], content_type: str, version: tuple[int, ...]) -> bytes:
    """One call of the handler with these requests, each the entries of its content."""
    if len(requests) == 1:
        properties = {"Content-Type": content_type, "handler": "handle", "requestId": "0"}
        return message(properties, requests[0], version)
    properties = {f"batch_{n:03d}.Content-Type": content_type for n in range(len(requests))}
    content = [(f"batch_{n:03d}.{key}", body) for n, pairs in enumerate(requests) for key, body in pairs]
    return message({**properties, "batch_size": str(len(requests)), "handler": "handle"}, content, version)


def message(properties: Mapping[str, str], content: Pairs, version: tuple[int, ...]) -> bytes:
    """A message for the worker of that version."""
    width = _width(version)

    def text(value: str) -> bytes:
        return struct.pack(width, len(value.encode())) + value.encode()

    parts = [struct.pack(">h", len(properties))]
    parts += [text(word) for pair in properties.items() for word in pair]
    parts.append(struct.pack(">h", len(content)))
    parts += [text(key) + struct.pack(">i", len(body)) + body for key, body in content]
    return b"".join(parts)


async def read_answer(stream: asyncio.StreamReader, version: tuple[int, ...]) -> Answered:
    """The next answer; a streamed one whole. Raises IncompleteReadError, OSError where the worker is gone."""
    width = _width(version)

    async def number(layout: str) -> int:
        return int(struct.unpack(layout, await stream.readexactly(struct.calcsize(layout)))[0])

    async def body(length: int) -> bytes:
        return await stream.readexactly(length) if length > 0 else b""

    async def text() -> str:
        return (await body(await number(width))).decode()

    code, note = await number(">h"), await text()
    properties = {await text(): await text() for _ in range(await number(">h"))}
    count, content = await number(">h"), []
    if count == _IS_STREAM:
        while await number(">b"):
            content.append(("data", await body(await number(">i"))))
        content.append(("data", await body(await number(">i"))))
    for _ in range(max(0, count)):
        content.append((await text(), await body(await number(">i"))))
    return Answered(code=code, message=note, properties=properties, content=content)


def _width(version: tuple[int, ...]) -> str:
    return ">i" if version >= FIRST_WIDE else ">h"
