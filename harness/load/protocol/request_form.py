"""Whole HTTP requests in a protocol's form for one endpoint: address, headers and body."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from engines.adapters.api_key import authorization
from harness.errors import UsageError
from harness.load.plan import LoadPlan
from harness.load.protocol.answer.json_frames import json_bytes
from harness.load.protocol.interface import Answer, Form, Marks, RequestProtocol
from harness.load.protocol.registry import PROTOCOLS
from harness.records import Prompt

PLACEHOLDER = re.compile(r"\{[a-z_]+\}")
"""A text in the user's own fields that stands for a parameter's value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to connect and what to ask for."""

    host: str
    port: int
    is_tls: bool
    path: str

    @property
    def authority(self) -> str:
        """host:port, as the Host header and a URL have it: without the usual port, as gateways compare the header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole of it as a URL."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.path}"


def address_of(url: str, protocol: str) -> Address:
    """The address behind an endpoint URL. Raises UsageError: not an http(s) address, or an unknown protocol."""
    if protocol not in PROTOCOLS:
        raise UsageError(f"endpoint {url!r}: protocol {protocol!r} is unknown; expected one of {sorted(PROTOCOLS)}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"endpoint {url!r}: expected http://host:port[/path] or https://...")
    rules = PROTOCOLS[protocol]
    path = rules.path(parts.path) if parts.path not in ("", "/") else rules.default_path
    return Address(
        host=parts.hostname,
        port=parts.port or (443 if parts.scheme == "https" else 80),
        is_tls=parts.scheme == "https",
        path=path + (f"?{parts.query}" if parts.query else ""),
    )


def with_path(url: str, path: str) -> str:
    """`url` with `path` behind its own path; its query stays at the end. The path '/' adds nothing to another one."""
    parts = urlsplit(url)
    own = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=own if own and path == "/" else own + path))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestForm:
    """How prompts become requests to one endpoint, and its answers are read."""

    address: Address
    protocol: RequestProtocol
    form: Form
    api_key_env: str = ""

    def body(self, prompts: Sequence[Prompt], parameters: Mapping[str, object] | None = None) -> bytes:
        """The JSON body for these prompts. `parameters` replace the form's own in this request."""
        given = self.form.parameters if parameters is None else parameters
        beside = self.protocol.rendered_parameters
        if beside is not None and any(prompt.rendered is not None for prompt in prompts):
            given = {**given, **beside}
        body = self.protocol.body(self.form, prompts, given)
        return json_bytes(changed(json.loads(body), self.form.body, given)) if self.form.body else body

    def headers(self) -> dict[str, str]:
        """The header fields, but for those that frame the message."""
        fields = {"Host": self.address.authority, "Content-Type": "application/json", "Accept": "*/*"}
        fields["Accept-Encoding"] = "identity"  # without it, HTTP lets a server compress
        fields |= authorization(self.api_key_env)
        for name, value in self.form.headers.items():
            fields = {known: text for known, text in fields.items() if known.lower() != name.lower()}
            if value is not None:
                fields[name] = value.replace("{api_key}", os.environ.get(self.api_key_env, ""))
        return fields

    def request(self, prompts: Sequence[Prompt], parameters: Mapping[str, object] | None = None) -> bytes:
        """The whole HTTP/1.1 request, head and body; see `body`."""
        body = self.body(prompts, parameters)
        fields = {**self.headers(), "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.address.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body

    def read(self, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The answer to a request of `prompts` prompts. Raises BadBody."""
        return self.protocol.read(self.form, body, marks, prompts)


def changed(body: dict[str, Any], changes: Mapping[str, object], parameters: Mapping[str, object]) -> dict[str, Any]:
    """`body` with the user's `changes`: None removes a field, a mapping changes what is inside, "{name}" stands for
    that parameter's value (absent where the request has none)."""
    for name, value in changes.items():
        if isinstance(value, str) and PLACEHOLDER.fullmatch(value):
            value = parameters.get(value[1:-1])
        if value is None:
            body.pop(name, None)
        elif isinstance(value, Mapping):
            inside = body.get(name)
            body[name] = changed(inside if isinstance(inside, dict) else {}, value, parameters)
        else:
            body[name] = value
    return body


def form_of(plan: LoadPlan) -> RequestForm:
    """The form of a load's endpoint. Raises UsageError, see `address_of`."""
    address = address_of(plan.endpoint_url, plan.protocol)
    form = Form(
        path=address.path,
        model_name=plan.model_name,
        parameters=plan.parameters,
        stream=plan.stream,
        template=plan.template,
        answer_path=plan.answer_path,
        dialect=plan.dialect,
        body=plan.body,
        headers=plan.headers,
    )
    return RequestForm(address=address, protocol=PROTOCOLS[plan.protocol], form=form, api_key_env=plan.api_key_env)
