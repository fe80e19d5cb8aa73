"""What `scenario check` finds out about requests before anybody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.registry import BACKENDS, traits
from harness.errors import ScenarioError
from harness.scenario.load import load_scenario
from harness.space.check_files import checked_scenario

ATTACH = '{engine: attach, options: {url: "http://127.0.0.1:1/v1", protocol: openai-chat}}'


def _check(tmp_path: Path, space: str, workload: str = "") -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\nworkload: {{{workload}}}\nspace:\n  - {space}\n")
    checked_scenario(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("protocol: openai", "space.0.options.url: expected an address such as"),
        ('url: ""', "space.0.options.url: expected an address"),
        ("url: 127.0.0.1:8000/v1", "space.0.options.url: expected an address"),
        ('url: ["http://h", nowhere]', "space.0.options.url: expected an address .*, got 'nowhere'"),
        ('url: "http://h", protocol: openai_chat', "protocol: expected one of djl, .*; did you mean 'openai-chat'?"),
        ('url: "http://h", modelname: x', "modelname: attach has no such option; did you mean 'model_name'?"),
        ('url: "http://h", ready: {path: up}', "ready_path: expected a path of the host such as /healthz, got 'up'"),
        ('url: "http://h", ready: {path: /up, state: 1}', "ready_state: attach has no such option"),
    ],
)
def test_wrong_options_of_attach_are_found_with_their_line(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=rf"s\.yaml:4: .*{message}"):
        _check(tmp_path, f"{{engine: attach, options: {{{options}}}}}")


def test_ready_may_be_written_as_one(tmp_path: Path) -> None:
    _check(tmp_path, '{engine: attach, options: {url: "http://h", ready: {path: /up, status: 204}}}')
    (block,) = load_scenario(tmp_path / "s.yaml").space
    assert (block.options["ready_path"], block.options["ready_status"]) == (("/up",), (204,))


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ("inputs_per_request: 2, stream: true", "inputs_per_request: 1 beside stream: true"),
        ("inputs_per_request: 2", "expected 1, because a chat request carries one prompt, got 2"),
        ("request: {body: {messages: []}}", "fields that dyno does not fill in itself, got 'messages'"),
        ("request: {body: {stream: true}}", "see workload.stream"),
        ("request: {body: {n: 2}}", "expected n: 1, one answer to each prompt, got 2"),
        ('request: {body: {k: "{max_tokens}"}}', "a parameter's name between the braces .*'max_new_tokens'?"),
        ('request: {headers: {Content-Length: "3"}}', "a header field that dyno does not need itself"),
        ('request: {headers: {X: "a\\nb"}}', "one line of ASCII for header X"),
        ("request: {headers: {X: 3}}", "expected text, got 3"),
        ("locustfile: l.py, request: {headers: {X: a}}", "no request.headers beside locustfile"),
        ("request: {}", "expected body, headers or both, got 'neither'"),
        ("request: {bodies: {}}", "did you mean 'body'"),
        ("parameters: {temprature: 1}", "did you mean 'temperature'"),
    ],
)
def test_requests_that_cannot_be_are_found(tmp_path: Path, workload: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        _check(tmp_path, ATTACH, workload)


def _kept(space: str, tmp_path: Path) -> None:
    _check(tmp_path, space, "chat: true, conversations: {history: server}")


def test_conversations_are_kept_through_responses_alone(tmp_path: Path) -> None:
    _kept(ATTACH.replace("openai-chat", "openai-responses"), tmp_path)
    for space, got in (
        (ATTACH, "openai-chat"),
        (ATTACH.replace("openai-chat", "[openai-responses, openai]"), "openai"),
        ("{engine: t5}", "no protocol"),
    ):
        what = f"expected openai-responses beside conversations.history: server, got '{got}'; or write history: own"
        with pytest.raises(ScenarioError, match=rf"space\.0\.options\.protocol: {what}"):
            _kept(space, tmp_path)


@pytest.mark.parametrize(
    "workload",
    [
        "parameters: {max_new_tokens: 8, temperature: 0.7, ignore_eos: true}",
        "request: {body: {max_tokens: null, max_completion_tokens: '{max_new_tokens}', kwargs: {a: [1, {b: null}]}}}",
        "request: {headers: {api-key: '{api_key}', Authorization: null}}",
    ],
)
def test_a_server_of_somebody_else_may_be_asked_anything(tmp_path: Path, workload: str) -> None:
    _check(tmp_path, ATTACH, workload)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (
            "parameters: {ignore_eos: true}",
            "workload.parameters.ignore_eos: fake refuses True: this server does not do",
        ),
        ("parameters: {temperature: 0.0}", "workload.parameters.temperature: fake refuses 0.0: 0.0 is out of range"),
        (
            "request: {body: {top_p: 0.9}}",
            "an engine whose server is not ours, such as attach, beside workload.request",
        ),
        ('template: {body: \'{"q": "{prompt}"}\', answer: a}', "such as attach, beside workload.template, got 'fake'"),
    ],
)
def test_what_our_own_server_would_refuse_is_found(tmp_path: Path, workload: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        _check(tmp_path, "{engine: fake}", workload)


def test_only_servers_of_somebody_else_take_a_request_of_the_user_s() -> None:
    assert traits("attach").takes_request
    ours = [*BACKENDS, "multi-model-server", "djl", "sagemaker", "torchserve", "neuronx", "nobody"]
    assert not any(traits(name).takes_request for name in ours)


def test_every_parameter_of_our_own_server_is_taken(tmp_path: Path) -> None:
    parameters = (
        "max_new_tokens: 90, min_new_tokens: 88, num_beams: 2, length_penalty: 2.0, early_stopping: never, "
        "do_sample: false, temperature: 0.5, top_k: 3, top_p: 0.5, repetition_penalty: 1.1, no_repeat_ngram_size: 2, "
        "seed: 1, return_logprobs: true, details: true"
    )
    _check(tmp_path, "{engine: fake}", f"parameters: {{{parameters}}}")
