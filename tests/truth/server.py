"""A server with a known latency law, in a process of its own: python server.py LAW SEED LOG SKIP.

LAW is 'constant:MS', 'lognormal:MEDIAN_MS:SIGMA' or 'stall:MS:AFTER_S:STALL_S' (constant, but from AFTER_S to
AFTER_S + STALL_S after request number SKIP, the first measured one, nothing is answered). Prints its port, answers any
POST, and on SIGTERM writes LOG, one line "receipt_ns write_ns" per request: the truth to compare a load generator with.
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
    if kind == "constant":
        return lambda at_s: numbers[0] / 1e3
    if kind == "lognormal":
        return lambda at_s: rng.lognormvariate(math.log(numbers[0] / 1e3), numbers[1])
    if kind == "stall":
        delay_s, begin_s, end_s = numbers[0] / 1e3, numbers[1], numbers[1] + numbers[2]
        return lambda at_s: delay_s + (end_s - at_s if begin_s <= at_s < end_s else 0.0)
    raise ValueError(text)


class Connection(asyncio.Protocol):
    """One client; requests on it come one after the other."""

    def __init__(self, law: Callable[[float], float], log: list[tuple[int, int]], skip: int) -> None:
        self._law, self._log, self._skip, self._data = law, log, skip, b""

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
        self._log.append((receipt_ns, 0))
        row = len(self._log) - 1
        delay_s = self._law((receipt_ns - first_ns) / 1e9)
        asyncio.get_running_loop().call_later(delay_s, self._answer, row, body)

    def _answer(self, row: int, body: bytes) -> None:
        inputs = json.loads(body)["inputs"]
        text = json.dumps({"generated_text": f"echo {inputs}"}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nx-dyno-tokens: 3\r\nx-dyno-input-tokens: 2\r\n\r\n"
        self._log[row] = (self._log[row][0], time.monotonic_ns())
        self._transport.write(head.encode() + text)


async def serve(law: Callable[[float], float], log_path: Path, skip: int) -> None:
    log: list[tuple[int, int]] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(law, log, skip), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    log_path.write_text("".join(f"{receipt} {write}\n" for receipt, write in log))


if __name__ == "__main__":
    asyncio.run(serve(law_of(sys.argv[1], int(sys.argv[2])), Path(sys.argv[3]), int(sys.argv[4])))
