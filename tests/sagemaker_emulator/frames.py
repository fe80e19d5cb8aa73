"""AWS event-stream frames and CBOR, written from their specifications."""

from __future__ import annotations

import binascii
import struct
from datetime import datetime
from typing import Any


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One event-stream message: prelude, its CRC, string headers, payload, CRC of all."""
    packed = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + packed + payload
    return message + struct.pack("!I", binascii.crc32(message))


def payload_part(data: bytes) -> bytes:
    """A piece of the container's answer."""
    kinds = {":event-type": "PayloadPart", ":content-type": "application/octet-stream", ":message-type": "event"}
    return frame(kinds, data)


def stream_error(kind: str, message: str) -> bytes:
    """An exception inside a stream that has begun."""
    kinds = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(kinds, message.encode())


def cbor(value: Any) -> bytes:
    """`value` (maps, lists, text, numbers, datetimes) as CBOR."""
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _sized(0, value) if value >= 0 else _sized(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack("!d", value)
    if isinstance(value, datetime):
        return b"\xc1" + cbor(value.timestamp())
    if isinstance(value, str):
        return _sized(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _sized(4, len(value)) + b"".join(cbor(item) for item in value)
    if isinstance(value, dict):
        return _sized(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())
    raise TypeError(f"no CBOR for {value!r}")


def _sized(major: int, number: int) -> bytes:
    if number < 24:
        return struct.pack("!B", major << 5 | number)
    for code, form, limit in ((24, "!BB", 1 << 8), (25, "!BH", 1 << 16), (26, "!BI", 1 << 32)):
        if number < limit:
            return struct.pack(form, major << 5 | code, number)
    return struct.pack("!BQ", major << 5 | 27, number)
