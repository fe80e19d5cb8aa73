"""The local signing proxy: plain HTTP from a load generator becomes signed requests to a SageMaker endpoint.

A load generator sends plain HTTP to it, as to any engine. Requests become InvokeEndpoint, those with "stream": true
InvokeEndpointWithResponseStream; event-stream frames become the bytes the container wrote. A container's own error
comes back under its own status code. Every client connection has one connection to AWS, kept open; nothing is retried
but a request whose kept connection had been closed before a byte of its answer came.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import uvloop

from engines.models.download.redaction import redact
from engines.sagemaker.route import open_route, route_to

MAX_BODY_BYTES = 6 << 20
"""InvokeEndpoint's limit on a request body."""
READ_BYTES = 1 << 16
THROTTLED = 429


@dataclass(slots=True)
class Stats:
    """Microseconds this process itself spent per request: signing and passing on, not waiting for AWS."""

    added_us: list[float] = field(default_factory=list)
    reopened: int = 0

    def as_dict(self) -> dict[str, float]:
        ordered = sorted(self.added_us)
        at = {name: ordered[int(q * len(ordered))] if ordered else 0.0 for name, q in (("p50", 0.5), ("p99", 0.99))}
        return {
            "requests": len(ordered),
            "reopened": self.reopened,
            "added_p50_us": at["p50"],
            "added_p99_us": at["p99"],
        }


class Signer:
    """Requests to one endpoint, signed with the session's credentials (renewed by botocore when they expire)."""

    def __init__(self, runtime_url: str, region: str, endpoint: str) -> None:
        self.parts = urlsplit(runtime_url)
        self.route = route_to(runtime_url)
        self._region = region
        self._base = f"/endpoints/{quote(endpoint)}/invocations"
        import botocore.auth
        import botocore.awsrequest
        import botocore.session

        self._auth: Any = botocore.auth
        self._request: Any = botocore.awsrequest.AWSRequest
        self._credentials = botocore.session.get_session().get_credentials()

    def signed(self, body: bytes, is_stream: bool) -> bytes:
        """Head and body, ready to send."""
        path = self._base + ("-response-stream" if is_stream else "")
        headers = {"Content-Type": "application/json"}
        headers["X-Amzn-SageMaker-Accept" if is_stream else "Accept"] = "application/json"
        request = self._request("POST", f"{self.parts.scheme}://{self.parts.netloc}{path}", headers=headers, data=body)
        frozen = self._credentials.get_frozen_credentials()
        self._auth.SigV4Auth(frozen, "sagemaker", self._region).add_auth(request)
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: {self.parts.netloc}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        return head.encode("latin-1") + body


class Upstream:
    """One kept connection to AWS."""

    def __init__(self, signer: Signer, stats: Stats) -> None:
        self._signer = signer
        self._stats = stats
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, request: bytes) -> tuple[int, dict[str, str]]:
        """Status and headers (lower-cased) of the answer. Raises OSError or EOFError."""
        for attempt in (1, 2):
            is_fresh = await self._open()
            assert self._reader is not None
            assert self._writer is not None
            try:
                self._writer.write(request)
                head = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                self.close()
                partial = getattr(error, "partial", b"")
                if is_fresh or partial or attempt == 2:
                    raise
                self._stats.reopened += 1
                continue
            return _head(head)
        raise AssertionError("the second attempt returns or raises")

    async def body(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The pieces of the answer's body as they come."""
        assert self._reader is not None
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._reader.readline()).partition(b";")[0], 16):
                yield await self._reader.readexactly(size)
                await self._reader.readexactly(2)
            await self._reader.readuntil(b"\r\n")
        else:
            left = int(headers.get("content-length", "0"))
            while left:
                data = await self._reader.read(min(left, READ_BYTES))
                if not data:
                    raise EOFError("the answer ended early")
                left -= len(data)
                yield data
        if headers.get("connection", "").lower() == "close":
            self.close()

    def close(self) -> None:
        """Drop the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _open(self) -> bool:
        """Connect where there is no connection; True when it is a new one."""
        if self._writer is not None and self._reader is not None and not self._reader.at_eof():
            return False
        self.close()
        self._reader, self._writer = await open_route(self._signer.route)
        return True


class Proxy:
    """The server side: one client connection at a time per call of `serve`."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.stats = Stats()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client connection until it closes."""
        upstream = Upstream(self._signer, self.stats)
        try:
            while True:
                try:
                    raw = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    return
                method, path, headers = _request_head(raw)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if method == "GET":
                    _write(writer, *self._local(path))
                else:
                    await self._forward(upstream, writer, body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError):
            return
        finally:
            upstream.close()
            writer.close()

    def _local(self, path: str) -> tuple[int, bytes]:
        if path == "/ping":
            return 200, b'{"status": "Healthy"}'
        if path == "/stats":
            return 200, json.dumps(self.stats.as_dict()).encode()
        return 404, b'{"code": 404, "message": "unknown path"}'

    async def _forward(self, upstream: Upstream, writer: asyncio.StreamWriter, body: bytes) -> None:
        begin = time.perf_counter()
        if len(body) > MAX_BODY_BYTES:
            _write(writer, 413, _error(413, f"{len(body)} bytes; InvokeEndpoint takes at most {MAX_BODY_BYTES}"))
            return
        is_stream = _wants_stream(body)
        request = self._signer.signed(body, is_stream)
        sent = time.perf_counter()
        try:
            status, headers = await upstream.send(request)
            if is_stream and status == 200:
                await _pass_stream(upstream, writer, headers)
                self.stats.added_us.append((sent - begin) * 1e6)
                return
            answer = b"".join([piece async for piece in upstream.body(headers)])
        except (OSError, EOFError, ValueError) as error:
            upstream.close()
            _write(writer, 502, _error(502, redact(f"{type(error).__name__}: {error}")))
            return
        came = time.perf_counter()
        if status == 200:
            _write(writer, 200, answer, _token_headers(headers))
        else:
            _write(writer, *_refused(status, headers, answer))
        self.stats.added_us.append((sent - begin + time.perf_counter() - came) * 1e6)


async def _pass_stream(upstream: Upstream, writer: asyncio.StreamWriter, headers: Mapping[str, str]) -> None:
    """The payload of each event-stream frame, as it comes; an exception frame becomes an error line."""
    import botocore.eventstream

    buffer = botocore.eventstream.EventStreamBuffer()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/jsonlines\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        async for data in upstream.body(headers):
            buffer.add_data(data)
            for event in buffer:
                payload = _payload(event)
                if payload:
                    writer.write(b"%x\r\n%b\r\n" % (len(payload), payload))
    except (OSError, EOFError, ValueError) as error:
        upstream.close()
        line = json.dumps({"error": redact(f"{type(error).__name__}: {error}"), "code": 502}).encode() + b"\n"
        writer.write(b"%x\r\n%b\r\n" % (len(line), line))
    writer.write(b"0\r\n\r\n")


def _payload(event: Any) -> bytes:
    kind = event.headers.get(":message-type", "event")
    if kind == "event":
        return bytes(event.payload)
    name = event.headers.get(":exception-type") or event.headers.get(":error-code") or "InternalStreamFailure"
    detail = event.payload.decode("utf-8", "replace") or event.headers.get(":error-message", "")
    return b"\n" + json.dumps({"error": f"{name}: {redact(detail)}", "code": 500}).encode() + b"\n"


def _wants_stream(body: bytes) -> bool:
    if b'"stream"' not in body:
        return False
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("stream") is True


def _refused(status: int, headers: Mapping[str, str], answer: bytes) -> tuple[int, bytes]:
    """AWS's refusal as the load generator should see it: the container's own status where it was the container's."""
    try:
        detail = json.loads(answer)
    except (ValueError, RecursionError):
        detail = {}
    detail = detail if isinstance(detail, dict) else {}
    kind = headers.get("x-amzn-errortype", "").partition(":")[0]
    if kind == "ModelError":
        original = detail.get("OriginalStatusCode")
        return original if isinstance(original, int) else status, str(detail.get("OriginalMessage", "")).encode()
    if kind == "ThrottlingException":
        status = THROTTLED
    message = redact(str(detail.get("Message") or detail.get("message") or answer[:200].decode("utf-8", "replace")))
    return status, _error(status, f"{kind}: {message}")


def _token_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """x-dyno-* token counts, which a container of ours sends as SageMaker's custom attributes."""
    attributes = headers.get("x-amzn-sagemaker-custom-attributes", "")
    found = dict(part.split("=", 1) for part in attributes.split(",") if "=" in part)
    return {f"x-dyno-{name}": value for name, value in found.items() if name in ("tokens", "input-tokens")}


def _error(status: int, message: str) -> bytes:
    return json.dumps({"code": status, "type": "Proxy", "message": message}).encode()


def _write(writer: asyncio.StreamWriter, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    writer.write(head.encode("latin-1") + body)


def _head(raw: bytes) -> tuple[int, dict[str, str]]:
    lines = raw.decode("latin-1").split("\r\n")
    return int(lines[0].split(" ", 2)[1]), _fields(lines[1:])


def _request_head(raw: bytes) -> tuple[str, str, dict[str, str]]:
    lines = raw.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    return method, path, _fields(lines[1:])


def _fields(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _run(options: argparse.Namespace) -> None:
    signer = Signer(options.runtime_url, options.region, options.endpoint)
    proxy = Proxy(signer)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=8 << 20, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    partial = options.state.with_suffix(".partial")
    partial.write_text(json.dumps({"port": port}))
    partial.replace(options.state)
    print(f"signing for {options.endpoint} on port {port}", file=sys.stderr, flush=True)
    async with server:
        await server.serve_forever()


def main(argv: list[str]) -> None:
    """Serve until it is killed."""
    parser = argparse.ArgumentParser(prog="engines.sagemaker.proxy")
    parser.add_argument("--runtime-url", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--state", type=Path, required=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_run(parser.parse_args(argv)))


if __name__ == "__main__":
    main(sys.argv[1:])
