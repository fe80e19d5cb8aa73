"""The interface of a request protocol: prompts to a request body, and an answer's bytes to text and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from engines.api import Dialect
from harness.records import Prompt, RequestOutcome

Marks = Sequence[tuple[int, int]]
"""(monotonic ns, body bytes read so far) of each read of an answer; empty where no times were kept."""


class NoAnswer(Exception):
    """What came is not a good answer; the message explains why, `outcome` which kind of failure it is."""

    outcome: ClassVar[RequestOutcome] = "bad_body"


class BadBody(NoAnswer):
    """The body is not an answer of the protocol, or only a part of one; the message states what was expected."""


class ServerGaveUp(NoAnswer):
    """The server reports that it failed or stopped before the answer was whole."""

    outcome = "server_error"


class Filtered(NoAnswer):
    """A content filter of the server kept the answer, or the rest of it, back."""

    outcome = "filtered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one prompt got: the answer's `text`, and beside it what the model generated too, its `reasoning` and its
    tool `calls`. `tokens`: the server's count for this prompt, `token_ids` all that it wrote, None where there are
    none."""

    text: str
    reasoning: str = ""
    calls: str = ""
    tokens: int | None = None
    token_ids: tuple[int, ...] | None = None

    @property
    def generated(self) -> str:
        """All that the model wrote."""
        return self.reasoning + self.text + self.calls

    @property
    def is_blank(self) -> bool:
        """Nothing was generated, an end token at most."""
        return not self.generated and (self.tokens is None or self.tokens <= 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answered request: one part per prompt, and token counts of the whole request (see token_counts.py).

    Of a stream, `token_ns` are the times at which the bytes that completed each token had been read, whatever kind of
    token it is; `first_output_ns` is that of the first one that is not reasoning; `end_ns` that of the last frame.
    `hidden_tokens` are among `output_tokens` and were never sent: reasoning that the server keeps to itself.
    `cached_tokens` are among `input_tokens` and came from a prefix cache, where the server counts them. `response_id`
    is the name by which the server keeps it, where it may.
    """

    parts: tuple[Part, ...]
    input_tokens: int | None = None
    output_tokens: int | None = None
    hidden_tokens: int = 0
    cached_tokens: int | None = None
    token_ns: tuple[int, ...] = ()
    first_output_ns: int | None = None
    end_ns: int | None = None
    is_nonfinite: bool = False
    response_id: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each prompt's answer."""
        return tuple(part.text for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one endpoint is asked. `template` is the request body of a user's own protocol, `answer_path` the place of
    the text in its answer; other protocols ignore both. `dialect` is what its server wants otherwise. `body` and
    `headers` are the user's changes to every request (see scenario/request.py); no protocol looks at them."""

    path: str
    model_name: str = ""
    parameters: Mapping[str, object]
    stream: bool = False
    template: str = ""
    answer_path: str = ""
    dialect: Dialect = field(default_factory=Dialect)
    body: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)


class RequestProtocol(Protocol):
    """One request protocol. `default_path` is used where an endpoint's URL names only a host; `detail_parameters` are
    the parameters that make an answer carry more about its quality. `rendered_parameters` are those beside a text that
    a chat template wrote; None: prompts are messages, to which the server applies its template."""

    default_path: str
    detail_parameters: Mapping[str, object]
    rendered_parameters: Mapping[str, object] | None

    def path(self, given: str) -> str:
        """The path of a URL that has one: what it names, completed where the protocol has a usual beginning."""

    def body(self, form: Form, prompts: Sequence[Prompt], parameters: Mapping[str, object]) -> bytes:
        """The JSON body for these prompts. Raises UsageError where the protocol cannot carry so many."""

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The answer to a request of `prompts` prompts. Raises NoAnswer, and nothing else whatever the bytes are."""
