"""Attaching to an endpoint that somebody else runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engines.adapters import attach
from engines.adapters.attach import AttachEngine
from engines.api import EngineSpec
from engines.errors import NotReady, SpecInvalid
from engines.processes.server_process import free_port
from engines.setting import OptionValue
from tests.engines.server.running import ask, fake_server


def spec(**options: OptionValue) -> EngineSpec:
    return EngineSpec(engine="attach", model_dir=Path(), options=options)


@pytest.mark.heavy
def test_a_running_server_is_used_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "CHECK_S", 0.0)
    with fake_server(tmp_path) as (server, client):
        with AttachEngine().launch(spec(url=server.endpoint.url + "/", model_name="m"), tmp_path, 30.0) as attached:
            assert attached.endpoint.url == server.endpoint.url
            assert (attached.endpoint.protocol, attached.endpoint.model_name) == ("djl", "m")
            assert attached.pids == ()
            assert attached.facts.effective_dtype == "unknown"
            assert attached.failure() is None
        assert ask(client).status_code == 200
        url = server.endpoint.url
    with pytest.raises(NotReady, match="nothing answered 200"), AttachEngine().launch(spec(url=url), tmp_path, 0.0):
        pass
    assert "nothing answers at" in str(attached.failure())


def test_nobody_there_names_what_was_tried(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with (
        pytest.raises(NotReady, match=rf"tried {url}/health, {url}/v1/models"),
        AttachEngine().launch(spec(url=url, protocol="openai"), tmp_path, 0.0),
    ):
        pass


@contextmanager
def stranger(statuses: dict[str, int]) -> Iterator[str]:
    """The address of a server that answers GET of these paths, and 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("path", "protocol", "statuses"),
    [
        ("/v1", "openai", {"/health": 200}),
        ("/v1/chat/completions", "openai", {"/v1/models": 200}),
        ("/v1", "openai-chat", {"/v1/models": 200}),
        ("/gateway/v1/chat/completions", "openai-chat", {"/gateway/v1/models": 200}),
        ("/behind/a/proxy", "djl", {"/behind/a/proxy/ping": 200}),
        ("/predictions/model", "djl", {"/ping": 200}),
        ("/generate", "djl", {"/generate": 405}),
    ],
)
def test_an_address_with_a_path_is_found_ready(
    tmp_path: Path, path: str, protocol: str, statuses: dict[str, int]
) -> None:
    with stranger(statuses) as url, AttachEngine().launch(spec(url=url + path, protocol=protocol), tmp_path, 0.0) as it:
        assert (it.endpoint.url, it.endpoint.protocol) == (url + path, protocol)


def test_a_server_that_only_ever_says_404_or_503_is_not_ready(tmp_path: Path) -> None:
    with (
        stranger({"/health": 503}) as url,
        pytest.raises(NotReady, match=r"/health, .* and whether .*/v1 takes POST"),
        AttachEngine().launch(spec(url=url + "/v1", protocol="openai"), tmp_path, 0.0),
    ):
        pass


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://", "http://h:0", "http://h:notaport"])
def test_an_unusable_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SpecInvalid, match="expected an address"), AttachEngine().launch(spec(url=url), tmp_path, 0.0):
        pass


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    wrong = spec(url="http://127.0.0.1:1", protocol="grpc")
    with pytest.raises(SpecInvalid, match="protocol"), AttachEngine().launch(wrong, tmp_path, 0.0):
        pass
