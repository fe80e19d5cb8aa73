"""Messages between front and worker, however the socket cuts them; and answers in one write."""

from __future__ import annotations

import asyncio

from engines.server.one_write import _Gathering
from engines.server.wire import FrontWire, Message, pack


def test_messages_arrive_whole_and_in_order_however_they_are_cut() -> None:
    sent = [{"kind": "token", "text": "é" * n} for n in range(3)]
    stream = b"".join(map(pack, sent))
    for size in (1, 3, 7, len(stream)):
        got: list[Message] = []
        ends: list[None] = []
        wire = FrontWire(got.append, lambda ends=ends: ends.append(None))  # type: ignore[misc]
        for begin in range(0, len(stream), size):
            wire.data_received(stream[begin : begin + size])
        assert (got, ends) == (sent, [])
        wire.connection_lost(None)
        assert ends == [None]


class Transport:
    """Keeps what is written; `is_closed` as a transport has it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def test_what_is_written_in_one_turn_of_the_loop_is_one_write() -> None:
    async def main() -> list[bytes]:
        transport = Transport()
        gathering = _Gathering(transport, asyncio.get_running_loop())
        gathering.write(b"head ")
        gathering.write(b"body")
        await asyncio.sleep(0)
        gathering.write(b"next")
        await asyncio.sleep(0)
        return transport.writes

    assert asyncio.run(main()) == [b"head body", b"next"]


def test_closing_writes_what_is_kept_and_nothing_after() -> None:
    async def main() -> Transport:
        transport = Transport()
        gathering = _Gathering(transport, asyncio.get_running_loop())
        gathering.write(b"last words")
        gathering.close()
        gathering.write(b"too late")
        await asyncio.sleep(0)
        assert gathering.is_closing()
        return transport

    assert asyncio.run(main()).writes == [b"last words"]
