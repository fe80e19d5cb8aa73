"""What a request protocol is: how prompts become a body, and how an answer is read. Nothing here opens a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Marks = Sequence[tuple[int, int]]
"""(monotonic ns, body bytes read so far) of each read of an answer; empty where no times were kept."""


class BadBody(Exception):
    """The body is not an answer of the protocol; the message says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answered request. `texts` has one entry per prompt; counts are sums over the request, None where absent.

    `token_ns` are the times at which the bytes that completed each streamed token had been read.
    """

    texts: tuple[str, ...]
    input_tokens: int | None = None
    output_tokens: int | None = None
    token_ns: tuple[int, ...] = ()
    is_nonfinite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one endpoint is asked. `template` is the request body of a user's own protocol, `answer_path` the place of
    the text in its answer; other protocols ignore both."""

    path: str
    model_name: str = ""
    parameters: Mapping[str, object]
    stream: bool = False
    template: str = ""
    answer_path: str = ""


class RequestProtocol(Protocol):
    """One request protocol. `default_path` is used where an endpoint's URL names only a host; `detail_parameters` are
    the parameters that make an answer say more about its quality."""

    default_path: str
    detail_parameters: Mapping[str, object]

    def path(self, given: str) -> str:
        """The path of a URL that has one: what it names, completed where the protocol has a usual beginning."""

    def body(self, form: Form, texts: Sequence[str], parameters: Mapping[str, object]) -> bytes:
        """The JSON body for these prompts. Raises UsageError where the protocol cannot carry so many."""

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The answer to a request of `prompts` prompts. Raises BadBody."""
