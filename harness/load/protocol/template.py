"""A protocol that the user describes: a JSON body with {prompt} in it, and the path to the text of the answer.

A stream may be JSON lines or server-sent events of the same; each piece with a text is a token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.load.protocol.interface import Answer, BadBody, Form, Marks
from harness.load.protocol.json_frames import frames, parsed, short


class Template:
    """The user's own body and answer, both in the form."""

    default_path = "/"
    detail_parameters: Mapping[str, object] = {}

    def path(self, given: str) -> str:
        """As it is."""
        return given

    def body(self, form: Form, texts: Sequence[str], parameters: Mapping[str, object]) -> bytes:
        """{prompt} is replaced by the escaped text, {max_new_tokens} by the number."""
        escaped = json.dumps(texts[0], ensure_ascii=False)[1:-1]
        number = str(parameters.get("max_new_tokens", 64))
        return form.template.replace("{max_new_tokens}", number).replace("{prompt}", escaped).encode("utf-8")

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The text at the user's path; of a stream, the texts of its pieces, each a token where it is not empty."""
        if not form.stream:
            return Answer(texts=(text_at(parsed(body), form.answer_path),))
        parts = [(at_ns, text_at(piece, form.answer_path)) for at_ns, piece in frames(body, marks)]
        text = "".join(text for _, text in parts)
        return Answer(texts=(text,), token_ns=tuple(at_ns for at_ns, text in parts if text))


def text_at(whole: Any, path: str) -> str:
    """The text at a dotted path of keys and indexes. Raises BadBody."""
    value = whole
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError, ValueError) as error:
            raise BadBody(f"expected {path} in the answer, got {short(whole)}") from error
    if not isinstance(value, str):
        raise BadBody(f"expected text at {path}, got {short(value)}")
    return value
