"""Request bodies and addresses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from harness.errors import UsageError
from harness.load.protocol.interface import Form
from harness.load.protocol.registry import PROTOCOLS
from harness.load.protocol.request_form import Address, RequestForm, address_of, with_path
from harness.records import Prompt
from harness.scenario.request import Parameters

PROMPTS = tuple(Prompt(prompt_id=str(n), task="t", text=f"text {n}", reference=None) for n in range(2))


def _body(url: str, protocol: str, prompts: int = 1, **fields: Any) -> dict[str, Any]:
    parameters = {"max_new_tokens": 8, "num_beams": 1}
    body: dict[str, Any] = json.loads(_form(url, protocol, parameters=parameters, **fields).body(PROMPTS[:prompts]))
    return body


def _form(url: str, protocol: str, **fields: Any) -> RequestForm:
    address = address_of(url, protocol)
    form = Form(**{"path": address.path, "model_name": "m", "parameters": {}, **fields})
    return RequestForm(address=address, protocol=PROTOCOLS[protocol], form=form)


@pytest.mark.parametrize(
    ("url", "protocol", "address"),
    [
        ("http://h:8080", "djl", Address(host="h", port=8080, is_tls=False, path="/invocations")),
        ("http://h:8080/", "djl", Address(host="h", port=8080, is_tls=False, path="/invocations")),
        ("http://h/predictions/m", "djl", Address(host="h", port=80, is_tls=False, path="/predictions/m")),
        ("https://h", "openai", Address(host="h", port=443, is_tls=True, path="/v1/completions")),
        ("http://h/v1", "openai", Address(host="h", port=80, is_tls=False, path="/v1/completions")),
        ("http://h/gw/v1/", "openai-chat", Address(host="h", port=80, is_tls=False, path="/gw/v1/chat/completions")),
        ("http://h", "openai-chat", Address(host="h", port=80, is_tls=False, path="/v1/chat/completions")),
        ("http://h/v1", "openai-responses", Address(host="h", port=80, is_tls=False, path="/v1/responses")),
        ("http://h/own/", "openai", Address(host="h", port=80, is_tls=False, path="/own/")),
        ("http://[::1]:9/x?y=1", "djl", Address(host="::1", port=9, is_tls=False, path="/x?y=1")),
    ],
)
def test_addresses(url: str, protocol: str, address: Address) -> None:
    assert address_of(url, protocol) == address


@pytest.mark.parametrize(
    ("url", "authority"),
    [("http://h", "h"), ("https://h:443/x", "h"), ("http://h:443", "h:443"), ("https://[::1]:8443", "[::1]:8443")],
)
def test_the_usual_port_is_not_in_the_host_header(url: str, authority: str) -> None:
    assert address_of(url, "djl").authority == authority
    assert address_of(url, "djl").url.startswith(f"{url[: url.index(':')]}://{authority}/")


@pytest.mark.parametrize(("url", "protocol"), [("ftp://h", "djl"), ("localhost:80", "djl"), ("http://h", "grpc")])
def test_an_address_that_cannot_be_used_is_a_usage_error(url: str, protocol: str) -> None:
    with pytest.raises(UsageError, match="endpoint"):
        address_of(url, protocol)


def test_djl_sends_one_prompt_as_a_string_and_several_as_a_list() -> None:
    assert _body("http://h", "djl") == {"inputs": "text 0", "parameters": {"max_new_tokens": 8, "num_beams": 1}}
    assert _body("http://h", "djl", 2)["inputs"] == ["text 0", "text 1"]
    assert _body("http://h", "djl", stream=True)["stream"] is True


def test_openai_parameters_have_openai_names() -> None:
    assert _body("http://h", "openai") == {"model": "m", "temperature": 0, "max_tokens": 8, "prompt": "text 0"}
    chat = _body("http://h/v1/chat/completions", "openai", stream=True)
    assert chat["messages"] == [{"role": "user", "content": "text 0"}]
    assert chat["stream_options"] == {"include_usage": True}
    assert _body("http://h", "openai-chat")["messages"] == [{"role": "user", "content": "text 0"}]


@pytest.mark.parametrize("protocol", ["djl", "openai", "openai-chat", "openai-responses"])
def test_nothing_is_sent_that_nobody_asked_for(protocol: str) -> None:
    parameters = Parameters().model_dump()
    assert parameters == {"max_new_tokens": 80}
    body = json.loads(_form("http://h", protocol, parameters=parameters).body(PROMPTS[:1]))
    strict = {"model", "prompt", "messages", "max_tokens", "temperature"}
    if protocol == "openai-responses":
        strict = {"model", "input", "max_output_tokens", "temperature", "store"}
    assert set(body) <= ({"inputs", "parameters"} if protocol == "djl" else strict)


def test_what_was_asked_for_is_sent() -> None:
    parameters = Parameters(
        temperature=0.7, min_new_tokens=3, num_beams=4, do_sample=True, ignore_eos=True
    ).model_dump()
    body = json.loads(_form("http://h", "openai", parameters=parameters).body(PROMPTS[:1]))
    del body["prompt"], body["model"]
    assert body == {"temperature": 0.7, "max_tokens": 80, "min_tokens": 3, "num_beams": 4, "ignore_eos": True}


def test_sampling_is_not_at_temperature_zero() -> None:
    body = json.loads(_form("http://h", "openai", parameters={"do_sample": True}).body(PROMPTS[:1]))
    assert body["temperature"] == 1


def test_the_user_s_changes_win() -> None:
    changes = {
        "temperature": None, "max_tokens": None, "max_completion_tokens": "{max_new_tokens}", "model": "other",
        "min_tokens": "{min_new_tokens}", "stream_options": {"include_usage": None, "more": True},
        "chat_template_kwargs": {"enable_thinking": False}, "note": "{not a parameter}",
    }  # fmt: skip
    form = _form("http://h", "openai-chat", parameters={"max_new_tokens": 8}, stream=True, body=changes)
    expected: dict[str, Any] = {
        "model": "other", "messages": [{"role": "user", "content": "text 0"}], "stream": True,
        "stream_options": {"more": True}, "max_completion_tokens": 8,
        "chat_template_kwargs": {"enable_thinking": False}, "note": "{not a parameter}",
    }  # fmt: skip
    assert json.loads(form.body(PROMPTS[:1])) == expected
    longer = json.loads(form.body(PROMPTS[:1], {"max_new_tokens": 30, "min_new_tokens": 30}))
    assert (longer["max_completion_tokens"], longer["min_tokens"]) == (30, 30)


def test_changes_go_inside_djl_s_parameters_and_a_template() -> None:
    djl = _form("http://h", "djl", parameters={"max_new_tokens": 8}, body={"parameters": {"top_k": 5}})
    assert json.loads(djl.body(PROMPTS[:1]))["parameters"] == {"max_new_tokens": 8, "top_k": 5}
    own = _form("http://h", "template", template='{"q": "{prompt}"}', body={"seed": 1})
    assert json.loads(own.body(PROMPTS[:1])) == {"q": "text 0", "seed": 1}


def test_headers_are_set_replaced_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    headers = {"api-key": "{api_key}", "authorization": None, "accept": "text/event-stream", "Host": "model.internal"}
    form = replace(_form("http://h:9", "openai", headers=headers), api_key_env="A_KEY")
    head = form.request(PROMPTS[:1]).partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert head[0] == "POST /v1/completions HTTP/1.1"
    assert sorted(line for line in head[1:] if not line.startswith("Content-Length")) == [
        "Accept-Encoding: identity", "Content-Type: application/json", "Host: model.internal",
        "accept: text/event-stream", "api-key: secret",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "path", "expected"),
    [
        ("http://h", "/ask", "http://h/ask"),
        ("http://h", "/", "http://h/"),
        ("http://h/own?v=1", "/", "http://h/own?v=1"),
        ("http://h/gw/?v=1", "/ask", "http://h/gw/ask?v=1"),
    ],
)
def test_a_template_s_path_stands_before_the_query(url: str, path: str, expected: str) -> None:
    assert with_path(url, path) == expected


def test_a_chat_request_carries_one_prompt() -> None:
    with pytest.raises(UsageError, match="carries one prompt"):
        _body("http://h/v1/chat/completions", "openai", 2)


def test_the_request_is_complete_http() -> None:
    head, _, body = _form("http://[::1]:9", "djl").request(PROMPTS[:1]).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /invocations HTTP/1.1\r\nHost: [::1]:9\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


def test_a_template_is_filled_with_the_escaped_prompt_and_the_parameters() -> None:
    template = '{"q": "say: {prompt}", "n": {max_new_tokens}, "greedy": {do_sample}}'
    form = _form("http://h", "template", template=template, parameters={"max_new_tokens": 7, "do_sample": False})
    body = json.loads(form.body([Prompt(prompt_id="p", task="t", text='a "quoted"\nline', reference=None)]))
    assert body == {"q": 'say: a "quoted"\nline', "n": 7, "greedy": False}


def test_a_chat_is_a_message_where_the_server_has_a_template_else_the_rendered_text() -> None:
    prompt = Prompt(prompt_id="0", task="t", text="hi", reference=None, rendered="<s>user: hi\nassistant:")
    message = json.loads(_form("http://h", "openai-chat", parameters={"max_new_tokens": 8}).body((prompt,)))
    assert message["messages"] == [{"role": "user", "content": "hi"}]
    assert "add_special_tokens" not in message
    talk = replace(prompt, messages=(("system", "be brief"), ("user", "hi")))
    message = json.loads(_form("http://h", "openai-chat", parameters={"max_new_tokens": 8}).body((talk,)))
    assert message["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    plain = json.loads(_form("http://h", "djl", parameters={"max_new_tokens": 8}).body((prompt,)))
    assert plain == {"inputs": prompt.rendered, "parameters": {"max_new_tokens": 8, "add_special_tokens": False}}
