"""A server with a known latency law, in a process of its own: python server.py LAW SEED LOG SKIP.

LAW is 'constant:MS', 'lognormal:MEDIAN_MS:SIGMA', 'stall:MS:AFTER_S:STALL_S' (constant, but from AFTER_S to
AFTER_S + STALL_S after request number SKIP, the first measured one, nothing is answered), or for streams
'tokens:FIRST_MS:EACH_MS:COUNT'. Prints its port, answers any POST, and on SIGTERM writes LOG, one line
"receipt_ns first_write_ns write_ns" per request: the truth to compare a load generator with.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

MAX_REQUEST_BYTES = 1 << 20


def law_of(text: str, seed: int) -> Callable[[float], float]:
    """(seconds since request number SKIP) -> delay in seconds of a request that arrives then."""
    rng = random.Random(seed)
    kind, *values = text.split(":")
    numbers = [float(value) for value in values]
    if kind in ("constant", "tokens"):
        return lambda at_s: numbers[0] / 1e3
    if kind == "lognormal":
        return lambda at_s: rng.lognormvariate(math.log(numbers[0] / 1e3), numbers[1])
    if kind == "stall":
        delay_s, begin_s, end_s = numbers[0] / 1e3, numbers[1], numbers[1] + numbers[2]
        return lambda at_s: delay_s + (end_s - at_s if begin_s <= at_s < end_s else 0.0)
    raise ValueError(text)


class Connection(asyncio.Protocol):
    """One client; requests on it come one after the other. A log row is [receipt, first write, last write] in ns."""

    def __init__(self, law: str, delay: Callable[[float], float], log: list[list[int]], skip: int) -> None:
        self._law, self._delay, self._log, self._skip, self._data = law, delay, log, skip, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, gap, body = self._data.partition(b"\r\n\r\n")
        if not gap:
            return
        length = next(int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length"))
        if len(body) < length:
            return
        receipt_ns = time.monotonic_ns()
        self._data = b""
        first_ns = self._log[self._skip][0] if len(self._log) > self._skip else receipt_ns
        row = [receipt_ns, 0, 0]
        self._log.append(row)
        answer = self._stream if self._law.startswith("tokens:") else self._answer
        asyncio.get_running_loop().call_later(self._delay((receipt_ns - first_ns) / 1e9), answer, row, body)

    def _answer(self, row: list[int], body: bytes) -> None:
        text = json.dumps({"generated_text": f"echo {json.loads(body)['inputs']}"}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nx-dyno-tokens: 3\r\nx-dyno-input-tokens: 2\r\n\r\n"
        row[1] = row[2] = time.monotonic_ns()
        self._transport.write(head.encode() + text)

    def _stream(self, row: list[int], body: bytes, sent: int = 0) -> None:
        """Token number `sent`, and by itself the next one; the head goes with the first."""
        _, _, each_ms, count = self._law.split(":")
        line = {"token": {"id": sent, "text": "a"}} if sent < int(count) else {"generated_text": "a" * sent}
        data = json.dumps(line).encode() + b"\n"
        chunk = b"%x\r\n%b\r\n" % (len(data), data) + (b"" if sent < int(count) else b"0\r\n\r\n")
        row[2] = time.monotonic_ns()
        if sent == 0:
            row[1] = row[2]
            chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk
        self._transport.write(chunk)
        if sent < int(count):
            asyncio.get_running_loop().call_later(float(each_ms) / 1e3, self._stream, row, body, sent + 1)


async def serve(law: str, seed: int, log_path: Path, skip: int) -> None:
    log: list[list[int]] = []
    delay = law_of(law, seed)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(law, delay, log, skip), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    log_path.write_text("".join(f"{receipt} {first} {last}\n" for receipt, first, last in log))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
