"""Request bodies and addresses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import UsageError
from harness.load.protocol.interface import Form
from harness.load.protocol.registry import PROTOCOLS
from harness.load.protocol.request_form import Address, RequestForm, address_of
from harness.records import Prompt

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
        ("http://h/own/", "openai", Address(host="h", port=80, is_tls=False, path="/own/")),
        ("http://[::1]:9/x?y=1", "djl", Address(host="::1", port=9, is_tls=False, path="/x?y=1")),
    ],
)
def test_addresses(url: str, protocol: str, address: Address) -> None:
    assert address_of(url, protocol) == address


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


def test_a_chat_request_carries_one_prompt() -> None:
    with pytest.raises(UsageError, match="carries one prompt"):
        _body("http://h/v1/chat/completions", "openai", 2)


def test_the_request_is_complete_http() -> None:
    head, _, body = _form("http://[::1]:9", "djl").request(PROMPTS[:1]).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /invocations HTTP/1.1\r\nHost: [::1]:9\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


def test_a_template_is_filled_with_the_escaped_prompt() -> None:
    template = '{"q": "say: {prompt}", "n": {max_new_tokens}}'
    form = _form("http://h", "template", template=template, parameters={"max_new_tokens": 7})
    body = json.loads(form.body([Prompt(prompt_id="p", task="t", text='a "quoted"\nline', reference=None)]))
    assert body == {"q": 'say: a "quoted"\nline', "n": 7}
