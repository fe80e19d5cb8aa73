"""The first answer of an attached server: what is waited for, what is final, and what is measured all the same."""

from __future__ import annotations

import httpx
import pytest

from engines.errors import LaunchFailed, NotReady
from harness.trial.first_answer import answered
from tests.engines.processes.fake_time import FakeTime

URL = "http://h/v1/completions"


class Server:
    """Answers with these statuses, the last one for ever; an exception is raised."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, limit_s: float) -> httpx.Response:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        headers = {"location": "https://h/"} if 300 <= answer < 400 else {}
        return httpx.Response(answer, text="sorry, sk-1", headers=headers)


def test_an_answer_is_enough() -> None:
    server = Server(200)
    assert answered(URL, server, FakeTime().waiting(60.0)) == ""
    assert server.asked == 1


@pytest.mark.parametrize("busy", [503, 502, 504, 429, 500, httpx.ConnectError("refused")])
def test_a_server_that_loads_is_asked_again(busy: int | Exception) -> None:
    clock = FakeTime()
    assert answered(URL, Server(busy, busy, busy, 200), clock.waiting(60.0)) == ""
    assert clock.now_s == 3.0


@pytest.mark.parametrize("busy", [503, httpx.ConnectError("refused")])
def test_a_server_that_loads_too_long_is_not_ready(busy: int | Exception) -> None:
    with pytest.raises(NotReady, match=r"no request was answered within 60 s"):
        answered(URL, Server(busy), FakeTime().waiting(60.0))


@pytest.mark.parametrize("status", [401, 403, 404, 405, 501])
def test_a_wrong_address_or_key_is_final(status: int) -> None:
    with pytest.raises(LaunchFailed, match=rf"HTTP {status}: sorry, \*; correct url, model_name, api_key_env"):
        answered(URL, Server(status), FakeTime().waiting(60.0), hide=lambda text: text.replace("sk-1", "*"))


def test_a_redirect_names_where_it_leads() -> None:
    with pytest.raises(LaunchFailed, match=r"redirects \(308\) to https://h/, .* write that address in option url"):
        answered(URL, Server(308), FakeTime().waiting(60.0))


def test_a_request_refused_for_what_it_holds_is_measured() -> None:
    assert "HTTP 400: sorry" in answered(URL, Server(400), FakeTime().waiting(60.0))


def test_an_error_that_stays_is_measured() -> None:
    clock = FakeTime()
    assert "HTTP 500: sorry" in answered(URL, Server(500), clock.waiting(600.0))
    assert clock.now_s == 20.0


def test_a_server_that_takes_the_request_and_never_answers_is_not_ready() -> None:
    with pytest.raises(NotReady, match=r"took the first request and did not answer it within 60 s"):
        answered(URL, Server(httpx.ReadTimeout("slow")), FakeTime().waiting(60.0))
