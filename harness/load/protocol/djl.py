"""The protocol of DJL Serving, of SageMaker's containers and of this project's own server.

Answers: {"generated_text"} | [{"generated_text"}, ...] | {"outputs": [...]}, each with an optional "details"
{"generated_tokens", "input_tokens", "nonfinite"}; streamed: JSON lines {"token": {...}}, the last one
{"generated_text"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.load.protocol.interface import Answer, BadBody, Form, Marks
from harness.load.protocol.json_frames import frames, json_bytes, parsed, short


class Djl:
    """DJL's bodies; SageMaker's container contract gives the path."""

    default_path = "/invocations"
    detail_parameters: Mapping[str, object] = {"details": True, "return_logprobs": True}

    def path(self, given: str) -> str:
        """As it is."""
        return given

    def body(self, form: Form, texts: Sequence[str], parameters: Mapping[str, object]) -> bytes:
        """One prompt is sent as a string, several as a list."""
        fields: dict[str, object] = {"inputs": texts[0] if len(texts) == 1 else list(texts)}
        if parameters:
            fields["parameters"] = dict(parameters)
        if form.stream:
            fields["stream"] = True
        return json_bytes(fields)

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The answer; of a stream, the last line holds the text."""
        token_ns: tuple[int, ...] = ()
        if form.stream:
            pieces = frames(body, marks)
            whole: Any = pieces[-1][1]
            if "generated_text" not in whole and "outputs" not in whole:
                raise BadBody(
                    f'expected a last line {{"generated_text": ...}}: the stream was cut after {len(pieces)} line(s)'
                )
            token_ns = tuple(at_ns for at_ns, piece in pieces if "token" in piece)
        else:
            whole = parsed(body)
        texts, details = _texts(whole)
        if len(texts) != prompts:
            raise BadBody(f"expected {prompts} answer(s) in the body, got {len(texts)}")
        return Answer(
            texts=tuple(texts),
            input_tokens=_total(details, "input_tokens"),
            output_tokens=_total(details, "generated_tokens"),
            token_ns=token_ns,
            is_nonfinite=any(bool(detail.get("nonfinite")) for detail in details),
        )


def _texts(whole: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The text of each prompt, and the details of those that have some."""
    if isinstance(whole, dict) and isinstance(whole.get("outputs"), list):
        whole = whole["outputs"]
    rows = whole if isinstance(whole, list) else [whole]
    texts: list[str] = []
    details: list[dict[str, Any]] = []
    for row in rows:
        text = row if isinstance(row, str) else row.get("generated_text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise BadBody(f'expected {{"generated_text": "..."}} for each prompt, got {short(row)}')
        texts.append(text)
        if isinstance(row, dict) and isinstance(row.get("details"), dict):
            details.append(row["details"])
    return texts, details


def _total(details: Sequence[dict[str, Any]], name: str) -> int | None:
    counts = [detail.get(name) for detail in details]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known and len(known) == len(counts) else None
