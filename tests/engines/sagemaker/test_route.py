"""The way to SageMaker's runtime and S3 leads through the user's proxy, whatever holds on loopback."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from engines.errors import SpecInvalid, Unavailable
from engines.sagemaker.aws import ATTEMPTS, Aws
from engines.sagemaker.engine import SageMakerEngine
from engines.sagemaker.removal import delete_prefix
from engines.sagemaker.route import Route, _context, open_route, route_to
from engines.sagemaker.weights import upload
from tests.certificate import certificate_for
from tests.engines.proxies import proxy
from tests.sagemaker_emulator.fixtures import spec_for
from tests.sagemaker_emulator.local import BUCKET, Local
from tests.sagemaker_emulator.s5cmd import program, recorded

__all__ = ["program", "recorded"]

RUNTIME = "https://runtime.sagemaker.eu-west-1.amazonaws.com"
HOST = "runtime.sagemaker.eu-west-1.amazonaws.com"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "route"),
    [
        ({}, Route(host=HOST, port=443, is_tls=True)),
        ({"HTTP_PROXY": "http://p:1"}, Route(host=HOST, port=443, is_tls=True)),
        ({"HTTPS_PROXY": "http://p:3128"}, Route(host=HOST, port=443, is_tls=True, proxy="p:3128")),
        ({"https_proxy": "p:3128"}, Route(host=HOST, port=443, is_tls=True, proxy="p:3128")),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": ".amazonaws.com"}, Route(host=HOST, port=443, is_tls=True)),
        (
            {"HTTPS_PROXY": "http://me:se%40cret@p:8"},
            Route(host=HOST, port=443, is_tls=True, proxy="p:8", authorization="Basic bWU6c2VAY3JldA=="),
        ),
    ],
)
def test_the_route_is_what_boto3_would_take(
    variables: dict[str, str], route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert route_to(RUNTIME) == route


def test_a_proxy_of_another_kind_is_refused_before_anything_is_created(
    cloud: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", RUNTIME)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:hidden@p:1080")
    with pytest.raises(SpecInvalid, match=r"names a proxy socks5://p: the load can go") as raised:
        SageMakerEngine().launch(spec_for(), tmp_path, 30.0).__enter__()
    assert "hidden" not in str(raised.value)
    assert cloud.emulator.calls == []


@pytest.mark.heavy
def test_a_whole_deployment_goes_through_the_proxy(
    cloud: Local, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 (by s5cmd), the control plane and the runtime under names that only the proxy can reach."""
    s3 = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"])
    plane = urlsplit(os.environ["AWS_ENDPOINT_URL_SAGEMAKER"])
    for name in ("SAGEMAKER", "SAGEMAKER_RUNTIME", "CLOUDWATCH"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", f"http://{name.lower().replace('_', '-')}.example:{plane.port}")
    with proxy(("127.0.0.1", int(plane.port or 0))) as way:
        monkeypatch.setenv("HTTP_PROXY", way.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with SageMakerEngine().launch(spec_for(), tmp_path / "work", 30.0) as running:
            url = running.endpoint.url + "/invocations"
            assert httpx.post(url, json={"inputs": "one two"}, timeout=30, trust_env=False).status_code == 200
        assert any("went through the proxy 127.0.0.1:" in note for note in running.facts.notes)
        assert any(head.startswith("CONNECT sagemaker-runtime.example:") for head in way.heads)
        assert any(head.startswith("POST http://sagemaker.example:") for head in way.heads)
    with proxy(("127.0.0.1", int(s3.port or 0))) as way:
        monkeypatch.setenv("HTTP_PROXY", way.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://192.0.2.1:{s3.port}")
        (tmp_path / "a.json").write_text("{}")
        aws = Aws("us-east-1")
        upload(aws, {"a.json": tmp_path / "a.json"}, f"s3://{BUCKET}/way/", tmp_path / "log")
        delete_prefix(aws, f"s3://{BUCKET}/way/")
        assert any(head.startswith("PUT http://192.0.2.1:") for head in way.heads)


def test_a_proxy_that_is_gone_is_asked_again_then_named(cloud: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as way:
        pass
    monkeypatch.setenv("HTTP_PROXY", way.url.replace("//", "//me:hidden@"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://sagemaker.example")
    waits: list[float] = []
    with pytest.raises(Unavailable, match=r"proxy URL.*check network and proxy") as raised:
        Aws("us-east-1", waits.append).call("sagemaker", "list_models", {})
    assert len(waits) == ATTEMPTS - 1
    assert "hidden" not in str(raised.value)


def test_tls_begins_inside_the_tunnel_and_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = certificate_for(tmp_path, HOST)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def ask(route: Route) -> bytes:
        reader, writer = await open_route(route)
        writer.write(b"x" * 100_000 + b"\n")
        message = await reader.read(-1)
        writer.close()
        return message

    async def both() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context, limit=1 << 20)
        with proxy(server.sockets[0].getsockname()[:2]) as way:
            monkeypatch.setenv("HTTPS_PROXY", way.url.replace("//", "//me:secret@"))
            route = route_to(RUNTIME)
            _context.cache_clear()
            with pytest.raises(ssl.SSLError):
                await ask(route)
            monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
            _context.cache_clear()
            assert await ask(route) == b"x" * 100_000 + b"\n"
            assert way.heads[-1].startswith(f"CONNECT {HOST}:443 ")
            assert "Proxy-Authorization: Basic " in way.heads[-1]
        server.close()

    asyncio.run(both())
    _context.cache_clear()


def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(refusal="HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as way:
        monkeypatch.setenv("HTTPS_PROXY", way.url.replace("//", "//me:hidden@"))
        with pytest.raises(ConnectionRefusedError, match=r"does not let through to .*: HTTP/1\.1 407") as raised:
            asyncio.run(open_route(route_to(RUNTIME)))
    assert "hidden" not in str(raised.value)
