"""The network route to AWS: through the proxy that the environment names, with boto3's certificate authorities."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

from engines.errors import SpecInvalid

LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where to connect to, and through what: `proxy` is '' or host:port, `authorization` what it wants to see."""

    host: str
    port: int
    is_tls: bool
    proxy: str = ""
    authorization: str = ""


def route_to(url: str) -> Route:
    """The route to `url` by HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Raises SpecInvalid for a proxy of another kind."""
    import botocore.utils

    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    direct = Route(host=parts.hostname or "", port=port, is_tls=is_tls)
    named = str(botocore.utils.get_environ_proxies(url).get(parts.scheme) or "")
    if not named:
        return direct
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise SpecInvalid(
            f"sagemaker: {parts.scheme.upper()}_PROXY names a proxy {proxy.scheme}://{proxy.hostname}: the load can go "
            "through an http:// proxy only; name one, or exempt the runtime with NO_PROXY"
        )
    known = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}" if proxy.username else ""
    return Route(
        host=direct.host,
        port=port,
        is_tls=is_tls,
        proxy=f"{proxy.hostname}:{proxy.port or 80}",
        authorization=f"Basic {base64.b64encode(known.encode()).decode()}" if known else "",
    )


async def open_route(route: Route) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection, TLS included. Raises OSError or EOFError."""
    context = _context() if route.is_tls else None
    if not route.proxy:
        return await asyncio.open_connection(route.host, route.port, ssl=context, limit=LIMIT_BYTES)
    host, _, port = route.proxy.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=LIMIT_BYTES)
    try:
        await _tunnel(route, reader, writer)
        if context is not None:
            await writer.start_tls(context, server_hostname=route.host)
    except BaseException:
        writer.close()
        raise
    return reader, writer


async def _tunnel(route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    target = f"{route.host}:{route.port}"
    known = f"Proxy-Authorization: {route.authorization}\r\n" if route.authorization else ""
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{known}\r\n".encode("latin-1"))
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status = head.partition("\r\n")[0]
    if status.split(" ")[1:2] != ["200"]:
        raise ConnectionRefusedError(f"the proxy {route.proxy} does not let through to {target}: {status}")


@cache
def _context() -> ssl.SSLContext:
    """Trusting what boto3 trusts: AWS_CA_BUNDLE or the profile's ca_bundle, REQUESTS_CA_BUNDLE, else its own list."""
    import botocore.httpsession
    import botocore.session

    session: Any = botocore.session.Session()
    own: Any = botocore.httpsession.get_cert_path(True)
    named = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or own
    return ssl.create_default_context(cafile=str(named))
