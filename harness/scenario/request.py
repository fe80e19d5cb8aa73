"""Requests in a scenario: generation parameters, and body fields and headers of the user's own."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from harness.scenario.fields import AtLeastOne, AtLeastZero, Fraction, Strict, Word, did_you_mean, expected

_OURS = {"stream": "workload.stream", "prompt": "workload.prompts", "messages": "workload.prompts",
         "inputs": "workload.prompts", "input": "workload.prompts",
         "previous_response_id": "workload.conversations"}  # fmt: skip
"""Fields that dyno fills in itself, and the keys that decide what they hold."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PLACEHOLDER = re.compile(r"\{[a-z_]+\}")
_FRAMING = ("content-length", "transfer-encoding", "connection")


class Parameters(Strict):
    """Generation parameters of every request, with Hugging Face's names; what is not written is not sent, but for
    max_new_tokens. Protocols translate: OpenAI's max_tokens and min_tokens."""

    max_new_tokens: AtLeastOne = 80
    min_new_tokens: AtLeastZero | None = None
    num_beams: AtLeastOne | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0.0)] | None = None
    top_k: AtLeastZero | None = None
    top_p: Fraction | None = None
    repetition_penalty: Annotated[float, Field(gt=0.0)] | None = None
    no_repeat_ngram_size: AtLeastZero | None = None
    seed: AtLeastZero | None = None
    return_logprobs: bool | None = None
    details: bool | None = None
    ignore_eos: Annotated[bool | None, Field(description="generate beyond the end token; vLLM's and SGLang's")] = None

    @model_validator(mode="after")
    def _ordered(self) -> Parameters:
        if self.min_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise expected(f"min_new_tokens <= max_new_tokens ({self.max_new_tokens})", self.min_new_tokens)
        return self

    @model_serializer(mode="plain")
    def _written(self) -> dict[str, Any]:
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


def _texts(value: Any) -> list[str]:
    """The texts of a field, those inside of mappings too."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    return [value] if isinstance(value, str) else []


class Request(Strict):
    """Changes to every request to a server of somebody else: null removes, a mapping changes what is inside, anything
    else sets or adds. A text "{max_new_tokens}", or any other parameter's name, stands for its value."""

    body: Annotated[dict[Word, Any], Field(description="fields of the JSON body")] = Field(default_factory=dict)
    headers: Annotated[
        dict[Word, str | None], Field(description='header fields; "{api_key}" stands for the key of api_key_env')
    ] = Field(default_factory=dict)

    @field_validator("body")
    @classmethod
    def _is_json(cls, body: dict[str, Any]) -> dict[str, Any]:
        for name, value in body.items():
            if name in _OURS:
                raise expected("fields that dyno does not fill in itself", name, f"see {_OURS[name]}")
            if name == "n" and value not in (None, 1):
                raise expected("n: 1, one answer to each prompt", value)
            for text in _texts(value):
                if _PLACEHOLDER.fullmatch(text) and text[1:-1] not in Parameters.model_fields:
                    hint = did_you_mean(text[1:-1], Parameters.model_fields)
                    raise expected(f"a parameter's name between the braces for {name}", text, hint)
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                raise expected(f"a JSON value for {name}", value) from None
        return body

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, str | None]) -> dict[str, str | None]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or name.lower() in _FRAMING:
                raise expected("the name of a header field that dyno does not need itself", name)
            if value is not None and not (value.isascii() and value.isprintable()):
                raise expected(f"one line of ASCII for header {name}", value)
        return headers

    @model_validator(mode="after")
    def _is_not_empty(self) -> Request:
        if not self.body and not self.headers:
            raise expected("body, headers or both", "neither", "write request: {body: {top_p: 0.9}}")
        return self
