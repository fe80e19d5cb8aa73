"""Attaching to an endpoint that somebody else runs."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engines.adapters import attach
from engines.adapters.attach import AttachedEndpoint, AttachEngine, option_problems
from engines.adapters.attach_ready import Looks, Ready, Served, served_model, why_not_ready
from engines.api import Endpoint, EngineFacts, EngineSpec
from engines.errors import NotReady, SpecInvalid
from engines.processes.http_look import Look
from engines.processes.server_process import free_port
from engines.setting import OptionValue
from tests.engines.processes.fake_time import FakeTime
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
            assert attached.facts.effective_dtype == "fp32", "our own server names it"
            assert attached.failure() is None
        assert ask(client).status_code == 200
        url = server.endpoint.url
    with pytest.raises(NotReady, match="connection refused"), AttachEngine().launch(spec(url=url), tmp_path, 0.0):
        pass
    assert "nothing answers at" in str(attached.failure())


def test_nobody_there_is_reported_while_it_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url, clock = f"http://127.0.0.1:{free_port()}", FakeTime()
    caplog.set_level(logging.INFO, "engines.waiting")
    with (
        pytest.raises(
            NotReady, match=rf"{url}/health: connection refused.*not ready within 12 s; start the server first"
        ),
        AttachEngine(clock.waiting).launch(spec(url=url, protocol="openai"), tmp_path, 12.0),
    ):
        pass
    assert len(caplog.messages) == 2, "after 3 and after 8 seconds"
    assert f"waiting: {url}/health: connection refused: nothing listens there (3 s of at most 12 s)" in caplog.text


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


def test_a_server_that_answers_503_is_loading(tmp_path: Path) -> None:
    with (
        stranger({"/health": 503}) as url,
        pytest.raises(NotReady, match=r"/health answers 503: it is loading; not ready within 0 s"),
        AttachEngine().launch(spec(url=url + "/v1", protocol="openai"), tmp_path, 0.0),
    ):
        pass


def looks(statuses: dict[str, int | None], **bodies: object) -> Looks:
    """A server by the targets of its GETs, 404 elsewhere; None: it does not answer."""

    def look_at(url: str, headers: Mapping[str, str]) -> Look:
        target = url.removeprefix("http://h")
        status = statuses.get(target, 404)
        if status is None:
            return Look(url=url, failure="no answer within 2 s")
        body = json.dumps(bodies.get(target.strip("/").replace("/", "_"), "ok")).encode()
        return Look(url=url, status=status, location="https://h/" if 300 <= status < 400 else "", body=body)

    return look_at


@pytest.mark.parametrize(
    ("path", "statuses", "why"),
    [
        ("/v1/chat/completions", {}, ""),  # 404 to every GET: it has no health path
        ("/v1/chat/completions", {"/": 302, "/v1/chat/completions": 401}, ""),
        ("/d/chat?api-version=2024-06-01", {"/d/chat?api-version=2024-06-01": 405}, ""),
        ("/v1/chat/completions", {"/health": 501, "/v1/chat/completions": 501}, ""),  # knows no GET
        ("/v1/chat/completions", {"/health": 502, "/v1/models": 200}, ""),  # a gateway that routes some paths only
        ("/v1/chat/completions", {"/health": 503}, "http://h/health answers 503: it is loading"),
        (
            "/v1/chat/completions",
            {"/v1/chat/completions": 500},
            "http://h/v1/chat/completions answers 500: it is loading",
        ),
        ("/v1/chat/completions", {"/health": None}, "http://h/health: no answer within 2 s"),
    ],
)
def test_ready_is_any_answer_that_does_not_report_loading(path: str, statuses: dict[str, int | None], why: str) -> None:
    endpoint = Endpoint(url=f"http://h{path}", protocol="openai-chat")
    assert why_not_ready(endpoint, Ready(), looks(statuses)) == why


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (204, ""),
        (200, "http://h/up?deep=1 answers 200; it is ready when it answers 204"),
        (308, "http://h/up?deep=1 answers 308 and redirects to https://h/; it is ready when it answers 204"),
    ],
)
def test_ready_is_what_the_user_names(status: int, why: str) -> None:
    statuses: dict[str, int | None] = {"/up?deep=1": status, "/health": 503}
    ready = Ready(path="/up?deep=1", status=204)
    assert why_not_ready(Endpoint(url="http://h/v1", protocol="openai"), ready, looks(statuses)) == why


@pytest.mark.parametrize(
    ("path", "answer", "served"),
    [
        ("/v1/models", {"data": [{"id": "llama", "root": "/x"}]}, Served(model="llama")),
        ("/v1/models", {"data": [{"id": "a"}, {"id": "m"}]}, Served(model="m")),
        (
            "/v1/models",
            {"data": [{"id": "a"}, {"id": "b"}]},
            Served(note="it serves a, b, and none of them is model_name 'm'"),
        ),
        (
            "/info",
            {"model_id": "google/flan-t5-xl", "model_dtype": "torch.float16"},
            Served(model="google/flan-t5-xl", dtype="float16"),
        ),
        ("/facts", {"model_name": "model", "effective_dtype": "fp32"}, Served(model="model", dtype="fp32")),
        ("/v1/models", {"data": None}, Served()),
        ("/v1/models", [1], Served()),
        ("/v1/models", {"data": [{"id": 3}, "x"]}, Served()),
    ],
)
def test_the_server_names_its_model_and_dtype(path: str, answer: object, served: Served) -> None:
    bodies = {path.strip("/").replace("/", "_"): answer}
    endpoint = Endpoint(url="http://h/v1/chat/completions", protocol="openai-chat", model_name="m")
    assert served_model(endpoint, looks({path: 200}, **bodies)) == served


def test_a_busy_server_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "CHECK_S", 0.0)
    with socket.socket() as listener:  # it never accepts: as busy as can be
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        facts = EngineFacts(effective_dtype="unknown", versions={}, load_s=0.0)
        attached = AttachedEndpoint(Endpoint(url=url), facts)
        assert attached.failure() is None
    assert "nothing answers at" in str(attached.failure())


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"url": "http://h", "ready_path": "/up", "ready_status": 204}, []),
        ({}, ["url"]),
        ({"url": "127.0.0.1:8000/v1", "protocol": "openai_chat", "modelname": "x"}, ["modelname", "url", "protocol"]),
        ({"url": "http://h", "ready_path": "up"}, ["ready_path"]),
        ({"url": "http://me:secret@h/v1"}, ["url"]),
        ({"url": "http://h/m\u00f6dell"}, ["url"]),
        ({"url": "http://[::1]:8000/v1"}, []),
        ({"url": "http://h", "ready_path": "/up", "ready_status": "ok"}, ["ready_status"]),
        ({"url": "http://h", "ready_status": 204}, ["ready_status"]),
    ],
)
def test_what_is_wrong_with_options_is_known_before_anybody_is_asked(
    options: dict[str, OptionValue], problems: list[str]
) -> None:
    assert [name for name, _ in option_problems(options)] == problems


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://", "http://h:0", "http://h:notaport"])
def test_an_unusable_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SpecInvalid, match="expected an address"), AttachEngine().launch(spec(url=url), tmp_path, 0.0):
        pass


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    ((_, problem),) = option_problems({"url": "http://me:secret@h/v1"})
    assert problem == "expected an address without a user and password; write them into workload.request.headers"


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    wrong = spec(url="http://127.0.0.1:1", protocol="grpc")
    with pytest.raises(SpecInvalid, match="protocol"), AttachEngine().launch(wrong, tmp_path, 0.0):
        pass
