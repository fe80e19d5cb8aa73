"""Request bodies and addresses, per protocol. Nothing here opens a connection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from engines.adapters.api_key import authorization
from harness.errors import UsageError
from harness.records import Prompt

DEFAULT_PATHS = {
    "djl": "/invocations", "openai": "/v1/completions", "openai-chat": "/v1/chat/completions", "template": "/",
}  # fmt: skip
"""Path used when the endpoint names only a host: SageMaker's container contract, OpenAI's completions and chat."""
_OPENAI_BASE = "/v1"
"""What OpenAI's clients call the base URL ends here; the operation follows."""

_OPENAI_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
_OPENAI_UNKNOWN = frozenset({"num_beams", "do_sample", "details"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to connect and what to ask for."""

    host: str
    port: int
    is_tls: bool
    path: str

    @property
    def authority(self) -> str:
        """host:port, as the Host header and a URL have it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole of it as a URL."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.path}"


def address_of(url: str, protocol: str) -> Address:
    """The address behind an endpoint URL. Raises UsageError: not an http(s) address, or an unknown protocol."""
    if protocol not in DEFAULT_PATHS:
        raise UsageError(f"endpoint {url!r}: protocol {protocol!r} is unknown; expected one of {sorted(DEFAULT_PATHS)}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"endpoint {url!r}: expected http://host:port[/path] or https://...")
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATHS[protocol]
    if protocol.startswith("openai") and path.rstrip("/").endswith(_OPENAI_BASE):
        path = path.rstrip("/") + DEFAULT_PATHS[protocol].removeprefix(_OPENAI_BASE)
    return Address(
        host=parts.hostname,
        port=parts.port or (443 if parts.scheme == "https" else 80),
        is_tls=parts.scheme == "https",
        path=path + (f"?{parts.query}" if parts.query else ""),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyForm:
    """How prompts become a body for one endpoint."""

    address: Address
    protocol: str
    model_name: str
    parameters: Mapping[str, object]
    stream: bool
    template: str = ""
    api_key_env: str = ""

    @property
    def is_chat(self) -> bool:
        """OpenAI's chat form, named by the protocol or by the path."""
        return self.protocol == "openai-chat" or (self.protocol == "openai" and "/chat/" in self.address.path)

    def body(self, prompts: Sequence[Prompt], parameters: Mapping[str, object] | None = None) -> bytes:
        """The JSON body for these prompts; one prompt is sent as a string, several as a list. `parameters` replace
        the form's own in this request."""
        texts = [prompt.text for prompt in prompts]
        given = self.parameters if parameters is None else parameters
        if self.protocol == "template":
            return filled(self.template, texts[0], given)
        fields = self._djl(texts, given) if self.protocol == "djl" else self._openai(texts, given)
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")

    def request(self, prompts: Sequence[Prompt], parameters: Mapping[str, object] | None = None) -> bytes:
        """The whole HTTP/1.1 request, head and body; see `body`."""
        body = self.body(prompts, parameters)
        head = (
            f"POST {self.address.path} HTTP/1.1\r\nHost: {self.address.authority}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nAccept: */*\r\n"
        )
        head += "".join(f"{name}: {value}\r\n" for name, value in authorization(self.api_key_env).items())
        return f"{head}\r\n".encode("latin-1") + body

    def _djl(self, texts: list[str], parameters: Mapping[str, object]) -> dict[str, object]:
        fields: dict[str, object] = {"inputs": texts[0] if len(texts) == 1 else texts}
        if parameters:
            fields["parameters"] = dict(parameters)
        if self.stream:
            fields["stream"] = True
        return fields

    def _openai(self, texts: list[str], parameters: Mapping[str, object]) -> dict[str, object]:
        given = {name: value for name, value in parameters.items() if name not in _OPENAI_UNKNOWN}
        fields: dict[str, object] = {"model": self.model_name, "temperature": 0}
        fields.update({_OPENAI_NAMES.get(name, name): value for name, value in given.items()})
        if self.is_chat:
            if len(texts) != 1:
                raise UsageError(
                    f"endpoint path {self.address.path!r}: a chat request carries one prompt, "
                    f"inputs_per_request asks for {len(texts)}; set it to 1"
                )
            fields["messages"] = [{"role": "user", "content": texts[0]}]
        else:
            fields["prompt"] = texts[0] if len(texts) == 1 else texts
        if self.stream:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
        return fields


def filled(template: str, text: str, parameters: Mapping[str, object]) -> bytes:
    """The body of a user's own template: {prompt} is replaced by the escaped text, {max_new_tokens} by the number."""
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    number = str(parameters.get("max_new_tokens", 64))
    return template.replace("{max_new_tokens}", number).replace("{prompt}", escaped).encode("utf-8")
