"""The request protocol of DJL Serving, of SageMaker's containers and of this project's own server.

Answers: a string, {"generated_text"} (or the names of Hugging Face's translation and summary pipelines), a list of
either or {"outputs": [...]}; each with an optional "details" {"generated_tokens", "input_tokens", "finish_reason",
"tokens", "nonfinite"}. Streamed, as JSON lines or server-sent events: {"token": {...}} per token, the last one with
"generated_text" and "details"; or, from the Hugging Face handler, {"outputs": [text]} per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.load.protocol.answer.failures import raise_if_error, raise_if_failed
from harness.load.protocol.answer.json_frames import Stream, json_bytes, parsed, short, stream_of, whole_text
from harness.load.protocol.answer.stream_times import first_output
from harness.load.protocol.answer.token_counts import count, ids_of, total
from harness.load.protocol.interface import Answer, BadBody, Form, Marks, Part
from harness.records import Prompt

_TEXT_KEYS = ("generated_text", "translation_text", "summary_text")


class Djl:
    """DJL's bodies; SageMaker's container contract gives the path."""

    default_path = "/invocations"
    detail_parameters: Mapping[str, object] = {"details": True, "return_logprobs": True}
    rendered_parameters: Mapping[str, object] | None = {"add_special_tokens": False}

    def path(self, given: str) -> str:
        """As it is."""
        return given

    def body(self, form: Form, prompts: Sequence[Prompt], parameters: Mapping[str, object]) -> bytes:
        """One prompt is sent as a string, several as a list."""
        texts = [prompt.model_text for prompt in prompts]
        fields: dict[str, object] = {"inputs": texts[0] if len(texts) == 1 else texts}
        if parameters:
            fields["parameters"] = dict(parameters)
        if form.stream:
            fields["stream"] = True
        return json_bytes(fields)

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The answer; of a stream, the last line holds the text."""
        if form.stream:
            return _streamed(stream_of(body, marks), prompts)
        return _whole(parsed(body), prompts)


def _whole(whole: Any, prompts: int) -> Answer:
    raise_if_error(whole)
    if isinstance(whole, dict) and "outputs" in whole:
        whole = whole["outputs"]
    rows = whole if isinstance(whole, list) else [whole]
    if len(rows) != prompts:
        raise BadBody(f"expected {prompts} answer(s) in the body, got {len(rows)}")
    parts, details = zip(*(_row(row) for row in rows), strict=True) if rows else ((), ())
    return Answer(
        parts=parts,
        input_tokens=total(count(each.get("input_tokens")) for each in details),
        output_tokens=total(part.tokens for part in parts),
        is_nonfinite=any(bool(each.get("nonfinite")) for each in details),
    )


def _row(row: Any) -> tuple[Part, Mapping[str, Any]]:
    """One prompt's part and its details."""
    if isinstance(row, list) and len(row) == 1:  # Hugging Face's pipelines: a list of sequences per prompt
        row = row[0]
    raise_if_error(row)
    text = row if isinstance(row, str) else _text_in(row)
    if not isinstance(text, str):
        raise BadBody(f'expected {{"generated_text": "..."}} for each prompt, got {short(row)}')
    details = _details_in(row)
    ids = ids_of(details.get("tokens"))
    return Part(text=whole_text(text), tokens=count(details.get("generated_tokens")), token_ids=ids), details


def _text_in(row: Any) -> Any:
    return next((row[key] for key in _TEXT_KEYS if row.get(key) is not None), None) if isinstance(row, dict) else None


def _details_in(row: Any) -> Mapping[str, Any]:
    """The details; raises NoAnswer where they show that the answer failed."""
    details = row.get("details") if isinstance(row, dict) else None
    if not isinstance(details, dict):
        return {}
    raise_if_failed(details.get("finish_reason", details.get("finish reason")))  # old containers wrote a blank
    return details


def _streamed(stream: Stream, prompts: int) -> Answer:
    if prompts != 1:
        raise BadBody(f"expected {prompts} answers, and a stream holds one: set inputs_per_request to 1")
    frames = [(frame.at_ns, _unwrapped(frame.value)) for frame in stream.frames]
    pieces = [(at_ns, _token_text(value["token"])) for at_ns, value in frames if value.get("token") is not None]
    last = frames[-1][1] if frames else {}
    if _text_in(last) is not None:
        part, details = _row(last)
    elif (details := _details_in(last)) or (stream.is_done and pieces):
        text = "".join(piece for _, piece in pieces)
        part = Part(text=whole_text(text), tokens=count(details.get("generated_tokens")))
    elif all("outputs" in value for _, value in frames) and frames:
        if len(frames) == 1:
            return _whole(last, 1)
        pieces = [(at_ns, text) for at_ns, value in frames if (text := _whole(value, 1).texts[0])]
        part, details = Part(text=whole_text("".join(text for _, text in pieces))), {}
    else:
        raise BadBody(f'expected a last line {{"generated_text": ...}}: the stream was cut after {len(frames)} line(s)')
    return Answer(
        parts=(part,),
        input_tokens=count(details.get("input_tokens")),
        output_tokens=part.tokens if part.tokens is not None else len(pieces) or None,
        token_ns=tuple(at_ns for at_ns, _ in pieces),
        first_output_ns=first_output(pieces),
        end_ns=stream.end_ns,
        is_nonfinite=bool(details.get("nonfinite")),
    )


def _unwrapped(value: Any) -> dict[str, Any]:
    """One line's object; TGI-compatible containers put it into a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise BadBody(f"expected one JSON object per line of the stream, got {short(value)}")
    raise_if_error(value)
    return value


def _token_text(token: Any) -> str:
    text = token.get("text") if isinstance(token, dict) and not token.get("special") else None
    return text if isinstance(text, str) else ""
