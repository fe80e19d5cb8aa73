"""Servers that people attach to, by name: protocol, health path, and the words that differ without an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engines.api import Dialect
from engines.metrics_page import ANY, LLAMACPP, SGLANG, TGI, VLLM, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownServer:
    """What an option of engine attach need not state for this server; `is_run`: it was really asked in these words.
    `takes_ignore_eos`: through OpenAI's Responses, which know no minimum of tokens, it takes this word."""

    title: str
    protocol: str = "openai"
    ready_path: str = "/health"
    dialect: Dialect = field(default_factory=Dialect)
    is_run: bool = False
    takes_ignore_eos: bool = False
    words: Words = field(default_factory=lambda: ANY)

    def dialect_of(self, protocol: str) -> Dialect:
        """Its words in that protocol."""
        if protocol != "openai-responses":
            return self.dialect
        return replace(self.dialect, exact_tokens="ignore_eos" if self.takes_ignore_eos else "none")


ANYBODY = KnownServer(title="", protocol="djl", ready_path="")
"""A server of which no name was given."""


LLAMACPP_UNCACHED = Dialect(exact_tokens="ignore_eos", fields={"cache_prompt": False}, is_streamed_on_fresh=True)
"""llama.cpp's server, asked without answers from its prompt cache."""

SERVERS: Mapping[str, KnownServer] = {
    "vllm": KnownServer(title="vLLM", is_run=True, takes_ignore_eos=True, words=VLLM),
    "llamacpp": KnownServer(
        title="llama.cpp", dialect=LLAMACPP_UNCACHED, is_run=True, takes_ignore_eos=True, words=LLAMACPP
    ),
    "sglang": KnownServer(title="SGLang", words=SGLANG),
    "trtllm_serve": KnownServer(title="trtllm-serve"),
    "tgi": KnownServer(title="TGI", protocol="openai-chat", dialect=Dialect(exact_tokens="none"), words=TGI),
}
"""TGI's OpenAI protocol has no word for a minimum of tokens (its own docs); vLLM, SGLang and trtllm-serve take
min_tokens."""


def not_yet_run() -> tuple[str, ...]:
    """Titles of the servers whose words come from their documents alone."""
    return tuple(server.title for server in SERVERS.values() if not server.is_run)
