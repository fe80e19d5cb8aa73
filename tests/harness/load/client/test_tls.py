"""A load over TLS: whom it trusts, and connections that the server closes between requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines.adapters.attach_ready import Ready, why_not_ready
from engines.api import Endpoint
from engines.processes.waiting import Waiting
from harness.load.plan import LoadPlan
from harness.load.protocol.request_form import form_of
from harness.trial.first_answer import await_answer
from tests.harness.load.plans import PROMPTS, measured_of, plan_of, run_load

pytest.importorskip("cryptography")
from tests.certificate import certificate_for

pytestmark = pytest.mark.heavy
KEPT_S = 0.02
"""The server closes a connection that was idle for so long, and does not announce it."""


@contextmanager
def tls_server(certificate: Path) -> Iterator[str]:
    """The address of a server that answers like DJL's over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    answer = json.dumps({"generated_text": "a", "details": {"generated_tokens": 1}}).encode()
    message = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)
    loop, port = asyncio.new_event_loop(), [0]
    is_up, stop = threading.Event(), asyncio.Event()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            patience_s = 5.0
            while True:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience_s)
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                writer.write(message)
                await writer.drain()
                patience_s = KEPT_S
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(client, "127.0.0.1", 0, ssl=context) as server:
            port[0] = server.sockets[0].getsockname()[1]
            is_up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert is_up.wait(10)
    try:
        yield f"https://localhost:{port[0]}/invocations"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _plan(url: str, **fields: object) -> LoadPlan:
    return plan_of(url, warmup_requests=2, requests=10, **fields)


@pytest.mark.parametrize(
    "fields",
    [{"users": 2, "think_time_s": 5 * KEPT_S}, {"offsets_ns": tuple(n * 60_000_000 for n in range(10)), "users": 0}],
    ids=["closed loop", "open loop"],
)
def test_a_connection_that_the_server_closed_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
) -> None:
    certificate = certificate_for(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with tls_server(certificate) as url:
        assert why_not_ready(Endpoint(url=url), Ready()) == ""
        assert await_answer(form_of(_plan(url)), PROMPTS, Waiting(10.0)) == ""
        measured = measured_of(run_load(_plan(url, **fields), tmp_path / "load"))
    assert [record.error for record in measured if record.outcome != "ok"] == []
    assert len(measured) == 10


def test_whom_nobody_vouches_for_is_not_trusted_and_the_file_to_name_is_named(tmp_path: Path) -> None:
    with tls_server(certificate_for(tmp_path, "localhost")) as url:
        why = why_not_ready(Endpoint(url=url), Ready())
    assert "TLS: self-signed certificate; export SSL_CERT_FILE=" in why
