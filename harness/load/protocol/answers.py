"""What an answer body says: texts, token counts, token times. Runs after the load, in the parent process.

Accepted bodies. DJL / SageMaker: {"generated_text"} | [{"generated_text"}, ...] | {"outputs": [...]}, each with an
optional "details" {"generated_tokens", "input_tokens", "nonfinite"}; streamed: JSON lines {"token": {...}}, the last
one {"generated_text"}.
A user's own template: any JSON, the text at `answer_path`; streamed: JSON lines or server-sent events of the same.
OpenAI: {"choices": [{"text" | "message": {"content"}}], "usage"}; streamed: server-sent events of the same.
Token counts prefer the response headers x-dyno-tokens and x-dyno-input-tokens.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


class BadBody(Exception):
    """The body is not an answer of the protocol; the message says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answered request. `texts` has one entry per prompt; counts are sums over the request, None when not told.

    `token_ns` are the times at which the bytes that completed each streamed token had been read.
    """

    texts: tuple[str, ...]
    input_tokens: int | None = None
    output_tokens: int | None = None
    token_ns: tuple[int, ...] = ()
    is_nonfinite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Body bytes, the two token headers, and marks (monotonic ns, body bytes read so far) for each read."""

    body: bytes
    input_header: str = ""
    output_header: str = ""
    marks: tuple[tuple[int, int], ...] = ()
    answer_path: str = ""


def parse_answer(received: Received, prompts: int, protocol: str, stream: bool) -> Answer:
    """The answer to a request of `prompts` prompts. Raises BadBody."""
    if protocol == "template":
        return _templated(received, stream)
    if stream:
        pieces = list(_stream_pieces(received, protocol))
        texts, details = _join_stream(pieces)
        token_ns = tuple(at_ns for at_ns, piece in pieces if _is_token(piece))
    else:
        whole = _json(received.body)
        texts, details = _djl_texts(whole) if protocol == "djl" else _openai_texts(whole)
        token_ns = ()
    if len(texts) != prompts:
        raise BadBody(f"expected {prompts} answer(s) in the body, got {len(texts)}")
    return Answer(
        texts=tuple(texts),
        input_tokens=_count(received.input_header, details, "input_tokens"),
        output_tokens=_count(received.output_header, details, "generated_tokens"),
        token_ns=token_ns,
        is_nonfinite=any(bool(detail.get("nonfinite")) for detail in details),
    )


def _templated(received: Received, stream: bool) -> Answer:
    """The text at the user's path; of a stream, the texts of its pieces, each a token where it is not empty."""
    if not stream:
        text = text_at(_json(received.body), received.answer_path)
        return Answer(texts=(text,), output_tokens=_count(received.output_header, (), ""))
    parts = [(at_ns, text_at(piece, received.answer_path)) for at_ns, piece in _stream_pieces(received, "template")]
    if not parts:
        raise BadBody("expected a stream of JSON lines, got an empty body")
    return Answer(texts=("".join(text for _, text in parts),), token_ns=tuple(at_ns for at_ns, text in parts if text))


def text_at(whole: Any, path: str) -> str:
    """The text at a dotted path of keys and indexes. Raises BadBody."""
    value = whole
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError, ValueError) as error:
            raise BadBody(f"expected {path} in the answer, got {_short(whole)}") from error
    if not isinstance(value, str):
        raise BadBody(f"expected text at {path}, got {_short(value)}")
    return value


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise BadBody(f"expected JSON, got {body[:80]!r} ({error})") from error


def _djl_texts(whole: Any) -> tuple[list[str], list[dict[str, Any]]]:
    if isinstance(whole, dict) and isinstance(whole.get("outputs"), list):
        whole = whole["outputs"]
    rows = whole if isinstance(whole, list) else [whole]
    texts: list[str] = []
    details: list[dict[str, Any]] = []
    for row in rows:
        text = row if isinstance(row, str) else row.get("generated_text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise BadBody(f'expected {{"generated_text": "..."}} for each prompt, got {_short(row)}')
        texts.append(text)
        if isinstance(row, dict) and isinstance(row.get("details"), dict):
            details.append(row["details"])
    return texts, details


def _openai_texts(whole: Any) -> tuple[list[str], list[dict[str, Any]]]:
    choices = whole.get("choices") if isinstance(whole, dict) else None
    if not isinstance(choices, list):
        raise BadBody(f'expected {{"choices": [...]}}, got {_short(whole)}')
    texts = []
    for choice in choices:
        text = choice.get("text") if isinstance(choice, dict) else None
        if text is None and isinstance(choice, dict) and isinstance(choice.get("message"), dict):
            text = choice["message"].get("content")
        if not isinstance(text, str):
            raise BadBody(f'expected "text" or "message" in each choice, got {_short(choice)}')
        texts.append(text)
    return texts, _usage(whole)


def _usage(whole: dict[str, Any]) -> list[dict[str, Any]]:
    usage = whole.get("usage")
    if not isinstance(usage, dict):
        return []
    return [{"generated_tokens": usage.get("completion_tokens"), "input_tokens": usage.get("prompt_tokens")}]


def _stream_pieces(received: Received, protocol: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each JSON object of the stream with the time at which its last byte had been read."""
    ends = [length for _, length in received.marks]
    at = 0
    for line in received.body.splitlines(keepends=True):
        at += len(line)
        text = line.strip()
        if protocol != "djl":
            text = text.removeprefix(b"data:").strip()
        if not text or text == b"[DONE]" or text.startswith(b":"):
            continue
        piece = _json(text)
        if not isinstance(piece, dict):
            raise BadBody(f"expected one JSON object per line of the stream, got {_short(piece)}")
        if "error" in piece:
            raise BadBody(f"the stream ended with an error: {_short(piece['error'])}")
        last_byte = at - (len(line) - len(line.rstrip(b"\r\n")))
        mark = bisect_left(ends, last_byte)
        yield (received.marks[min(mark, len(ends) - 1)][0] if ends else 0), piece


def _is_token(piece: dict[str, Any]) -> bool:
    if "token" in piece:
        return True
    return any(_delta(choice) for choice in piece.get("choices", ()))


def _delta(choice: Any) -> str:
    if not isinstance(choice, dict):
        return ""
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def _join_stream(pieces: Sequence[tuple[int, dict[str, Any]]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Texts and details of a whole stream: DJL says the text in its last line, OpenAI spreads it over deltas."""
    if not pieces:
        raise BadBody("expected a stream of JSON lines, got an empty body")
    last = pieces[-1][1]
    if "generated_text" in last or "outputs" in last:
        return _djl_texts(last)
    if any("choices" in piece for _, piece in pieces):
        text = "".join(_delta(choice) for _, piece in pieces for choice in piece.get("choices", ()))
        return [text], [detail for _, piece in pieces for detail in _usage(piece)]
    raise BadBody(f'expected a last line {{"generated_text": ...}}: the stream was cut after {len(pieces)} line(s)')


def _count(header: str, details: Sequence[dict[str, Any]], name: str) -> int | None:
    if header.isdigit():
        return int(header)
    counts = [detail.get(name) for detail in details]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known and len(known) == len(counts) else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:117] + "..."
