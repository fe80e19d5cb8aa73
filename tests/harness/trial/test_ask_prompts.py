"""Asking an engine each prompt once: the address, OpenAI's two forms, and answers that cannot be read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engines.api import Dialect, Endpoint, EngineFacts
from engines.errors import EngineError
from harness.records import Prompt
from harness.scenario.load_kinds import Template
from harness.scenario.request import Request
from harness.scenario.schema import Workload
from harness.trial.ask_prompts import Answers, ask
from harness.trial.endpoint_form import quality_form

PROMPTS = [Prompt(prompt_id="p1", task="t", text="hello", reference=None)]


class Running:
    """A RunningEngine that somebody else started."""

    facts = EngineFacts(effective_dtype="fp32", versions={}, load_s=0.0)
    pids: tuple[int, ...] = ()

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def failure(self) -> EngineError | None:
        return None


def answers_of(endpoint: Endpoint, engine: str = "attach", **workload: Any) -> Answers:
    """The answers of `engine` at this endpoint, asked as a scenario with this workload asks."""
    form = quality_form(endpoint, Workload(**workload), engine)
    return ask(Running(endpoint), PROMPTS, form, concurrency=1, on_progress=lambda done: None)


@contextmanager
def server(answer: Any) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Its address, and (path, body) of every request it got."""
    seen: list[tuple[str, Any]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}", seen
        finally:
            http.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("path", "protocol", "asked", "answer"),
    [
        ("", "djl", "/invocations", {"generated_text": "hi"}),
        ("/predictions/model", "djl", "/predictions/model", [{"generated_text": "hi"}]),
        ("/", "openai", "/v1/completions", {"choices": [{"text": "hi"}]}),
        ("", "openai-chat", "/v1/chat/completions", {"choices": [{"message": {"content": "hi"}}]}),
        ("/v1/chat/completions", "openai", "/v1/chat/completions", {"choices": [{"message": {"content": "hi"}}]}),
    ],
)
def test_the_endpoint_s_own_path_is_asked_where_it_names_one(path: str, protocol: str, asked: str, answer: Any) -> None:
    with server(answer) as (url, seen):
        found = answers_of(Endpoint(url=url + path, protocol=protocol))
    assert found.texts == {"p1": "hi"}
    assert [place for place, _ in seen] == [asked]
    wanted = "messages" if "chat" in asked else "inputs" if protocol == "djl" else "prompt"
    assert wanted in seen[0][1]


def test_an_answer_that_cannot_be_read_is_a_failure_with_its_body() -> None:
    with server({"text": "hi"}) as (url, _):
        found = answers_of(Endpoint(url=url))
    assert found.texts == {}
    assert "unreadable answer" in found.failures["p1"]
    assert '{"text": "hi"}' in found.failures["p1"]


def test_only_our_own_server_is_asked_for_details() -> None:
    with server({"generated_text": "hi"}) as (url, seen):
        answers_of(Endpoint(url=url), "t5")
        answers_of(Endpoint(url=url), "attach")
    assert seen[0][1]["parameters"] == {"max_new_tokens": 80, "details": True, "return_logprobs": True}
    assert seen[1][1]["parameters"] == {"max_new_tokens": 80}


def test_a_user_s_template_and_changes_reach_other_servers_and_never_our_own() -> None:
    template = Template(body='{"q": "{prompt}"}', path="/ask", answer="result.0.text")
    request = Request(body={"top_p": 0.9}, headers={"X-Tenant": "a"})
    with server({"result": [{"text": "hi"}]}) as (url, seen):
        found = answers_of(Endpoint(url=url), template=template, request=request)
        answers_of(Endpoint(url=url), "transformers", template=template, request=request)
    assert found.texts == {"p1": "hi"}
    assert seen[0] == ("/ask", {"q": "hello", "top_p": 0.9})
    assert seen[1][0] == "/invocations"
    assert "top_p" not in seen[1][1]


def test_a_template_whose_answers_are_streams_is_read_as_one() -> None:
    template = Template(body='{"q": "{prompt}", "stream": true}', answer="choices.0.delta.content")
    with server({"choices": [{"delta": {"content": "hi"}}]}) as (url, _):
        assert answers_of(Endpoint(url=url), template=template, stream=True).texts == {"p1": "hi"}


@pytest.mark.parametrize("knows", [True, False])
def test_a_handler_that_is_not_ours_is_asked_for_no_details(knows: bool) -> None:
    """Hugging Face's handler in DJL Serving answers 424 to a parameter that generate() does not know."""
    with server([{"generated_text": "four"}]) as (url, seen):
        endpoint = Endpoint(url=url, protocol="djl", dialect=Dialect(knows_details=knows))
        answers_of(endpoint, "transformers")
    assert seen
    assert all(("return_logprobs" in body["parameters"]) is knows for _, body in seen)
