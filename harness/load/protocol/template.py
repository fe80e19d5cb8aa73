"""A request protocol from a user's template: a JSON body with {prompt} in it, and the path to the answer's text.

A stream may be JSON lines or server-sent events of the same; each piece with a text is a token, and pieces that have
nothing at the path (a role, a count, an end) are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.load.protocol.answer.failures import raise_if_error
from harness.load.protocol.answer.json_frames import Stream, joined, parsed, short, stream_of, whole_text
from harness.load.protocol.answer.stream_times import first_output
from harness.load.protocol.answer.token_counts import Usage
from harness.load.protocol.interface import Answer, BadBody, Form, Marks, Part
from harness.records import Prompt


class Template:
    """The user's own body and answer, both in the form."""

    default_path = "/"
    rendered_parameters: Mapping[str, object] | None = None
    detail_parameters: Mapping[str, object] = {}

    def path(self, given: str) -> str:
        """As it is."""
        return given

    def body(self, form: Form, prompts: Sequence[Prompt], parameters: Mapping[str, object]) -> bytes:
        """{prompt} is replaced by the escaped text, {max_new_tokens} and other parameters by their values."""
        body = form.template
        for name, value in {"max_new_tokens": 64, **parameters}.items():
            body = body.replace(f"{{{name}}}", json.dumps(value))
        escaped = json.dumps(prompts[0].text, ensure_ascii=False)[1:-1]
        return body.replace("{prompt}", escaped).encode("utf-8")

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The text at the user's path; of a stream, the texts of its pieces."""
        if prompts != 1:
            raise BadBody(f"expected {prompts} answers, and a template holds one: set inputs_per_request to 1")
        if form.stream:
            return _streamed(stream_of(body, marks), form.answer_path)
        whole = parsed(body)
        text = text_at(whole, form.answer_path)
        if text is None:
            raise_if_error(whole)
            raise BadBody(f"expected {form.answer_path} in the answer, got {short(whole)}")
        usage = Usage()
        usage.take(whole)
        return _answer(text, usage)


def _streamed(stream: Stream, path: str) -> Answer:
    parts: list[tuple[int, str]] = []
    usage = Usage()
    for frame in stream.frames:
        text = text_at(frame.value, path)
        if text is None:
            raise_if_error(frame.value)
        else:
            parts.append((frame.at_ns, text))
        usage.take(frame.value)
    if not parts and stream.frames:
        raise BadBody(f"expected {path} in a piece of the stream, got {short(stream.frames[-1].value)}")
    written = [(at_ns, text) for at_ns, text in parts if text]
    return replace(
        _answer(joined(text for _, text in parts), usage),
        token_ns=tuple(at_ns for at_ns, _ in written),
        first_output_ns=first_output(written),
        end_ns=stream.end_ns,
    )


def _answer(text: str, usage: Usage) -> Answer:
    part = Part(text=whole_text(text), tokens=usage.generated)
    return Answer(
        parts=(part,),
        input_tokens=usage.asked,
        output_tokens=usage.generated,
        hidden_tokens=usage.hidden,
        cached_tokens=usage.cached,
    )


def text_at(whole: Any, path: str) -> str | None:
    """The text at a dotted path of keys and indexes; None where there is none."""
    value = whole
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part] if isinstance(value, dict) else None
        except (LookupError, ValueError):
            return None
    return value if isinstance(value, str) else None
