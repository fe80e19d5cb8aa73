"""One look at a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engines.processes.http_look import is_refused, look
from engines.processes.server_process import free_port
from tests.harness.load.odd_server import Odd, odd_server


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = 308 if self.path == "/old" else 200 if self.path == "/chat?api-version=1" else 404
        self.send_response(status)
        self.send_header("Location", "https://h/new")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_query_of_an_address_is_asked_for(url: str) -> None:
    found = look(f"{url}/chat?api-version=1")
    assert (found.status, found.location, found.body) == (200, "", b"ok")
    assert look(f"{url}/chat").status == 404


def test_a_redirect_is_not_followed_and_names_where_it_leads(url: str) -> None:
    assert str(look(f"{url}/old")) == f"{url}/old answers 308 and redirects to https://h/new"


def test_who_does_not_speak_tls_is_said(url: str) -> None:
    found = look(url.replace("http", "https"))
    assert found.status is None
    assert found.failure.startswith("TLS: ")


def test_nobody_there_is_refused(url: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert look(nobody).failure == "connection refused: nothing listens there"
    assert is_refused(nobody)
    assert not is_refused(url)


def _drip_headers(odd: Odd, body: dict[str, Any]) -> None:
    for _ in range(60):
        odd.wfile.write(b"H")
        time.sleep(0.05)


def _drip_body(odd: Odd, body: dict[str, Any]) -> None:
    odd.send_response(200)
    odd.end_headers()
    for _ in range(60):
        odd.wfile.write(b"#")
        time.sleep(0.05)


def _drip_counted_body(odd: Odd, body: dict[str, Any]) -> None:
    odd.send_response(200)
    odd.send_header("Content-Length", "1000")
    odd.end_headers()
    for _ in range(60):
        odd.wfile.write(b"#")
        time.sleep(0.05)


@pytest.mark.heavy
@pytest.mark.parametrize("behave", [_drip_headers, _drip_body, _drip_counted_body])
def test_a_page_that_comes_byte_by_byte_is_given_up_in_time(behave: Callable[[Odd, dict[str, Any]], None]) -> None:
    with odd_server(behave) as url:
        begin = time.monotonic()
        seen = look(url, timeout_s=0.3)
        assert time.monotonic() - begin < 2.0  # the drip takes 3 s
    assert seen.status is None
    assert seen.failure == "no answer within 0.3 s"
