"""OpenAI's protocols, completions and chat completions, which many servers speak.

Answers: {"choices": [{"text" | "message": {"content"}}], "usage"}; streamed: server-sent events of the same, with
"delta" in place of "message".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import UsageError
from harness.load.protocol.interface import Answer, BadBody, Form, Marks
from harness.load.protocol.json_frames import frames, json_bytes, parsed, short

_BASE = "/v1"
"""What OpenAI's clients call the base URL ends here; the operation follows."""

_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
_UNKNOWN = frozenset({"num_beams", "do_sample", "details"})


class OpenAi:
    """One of the two: what is asked is chat where it was made so, or where the path says chat."""

    detail_parameters: Mapping[str, object] = {}

    def __init__(self, default_path: str) -> None:
        self.default_path = default_path
        self._is_chat = _is_chat(default_path)

    def path(self, given: str) -> str:
        """A base URL, which ends in /v1, is completed by the operation."""
        if given.rstrip("/").endswith(_BASE):
            return given.rstrip("/") + self.default_path.removeprefix(_BASE)
        return given

    def body(self, form: Form, texts: Sequence[str], parameters: Mapping[str, object]) -> bytes:
        """One prompt is sent as a string, several as a list; a chat carries one."""
        fields: dict[str, object] = {"model": form.model_name, "temperature": 0}
        fields.update({_NAMES.get(name, name): value for name, value in parameters.items() if name not in _UNKNOWN})
        if not (self._is_chat or _is_chat(form.path)):
            fields["prompt"] = texts[0] if len(texts) == 1 else list(texts)
        elif len(texts) == 1:
            fields["messages"] = [{"role": "user", "content": texts[0]}]
        else:
            raise UsageError(
                f"endpoint path {form.path!r}: a chat request carries one prompt, "
                f"inputs_per_request asks for {len(texts)}; set it to 1"
            )
        if form.stream:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
        return json_bytes(fields)

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The answer of either form; of a stream, the deltas joined."""
        if form.stream:
            return _streamed(frames(body, marks), prompts)
        whole = parsed(body)
        return _answer(_texts(whole), _usage(whole), (), prompts)


def _is_chat(path: str) -> bool:
    return "/chat/" in path


def _texts(whole: Any) -> list[str]:
    choices = whole.get("choices") if isinstance(whole, dict) else None
    if not isinstance(choices, list):
        raise BadBody(f'expected {{"choices": [...]}}, got {short(whole)}')
    texts = []
    for choice in choices:
        text = choice.get("text") if isinstance(choice, dict) else None
        if text is None and isinstance(choice, dict) and isinstance(choice.get("message"), dict):
            text = choice["message"].get("content")
        if not isinstance(text, str):
            raise BadBody(f'expected "text" or "message" in each choice, got {short(choice)}')
        texts.append(text)
    return texts


def _streamed(pieces: Sequence[tuple[int, dict[str, Any]]], prompts: int) -> Answer:
    if not any("choices" in piece for _, piece in pieces):
        raise BadBody(f'expected {{"choices": [...]}} in the stream: it was cut after {len(pieces)} line(s)')
    text = "".join(_delta(choice) for _, piece in pieces for choice in piece.get("choices", ()))
    token_ns = tuple(at_ns for at_ns, piece in pieces if any(_delta(choice) for choice in piece.get("choices", ())))
    return _answer([text], [usage for _, piece in pieces for usage in _usage(piece)], token_ns, prompts)


def _delta(choice: Any) -> str:
    if not isinstance(choice, dict):
        return ""
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def _answer(texts: Sequence[str], usages: Sequence[dict[str, Any]], token_ns: tuple[int, ...], prompts: int) -> Answer:
    if len(texts) != prompts:
        raise BadBody(f"expected {prompts} answer(s) in the body, got {len(texts)}")
    return Answer(
        texts=tuple(texts),
        input_tokens=_total(usages, "prompt_tokens"),
        output_tokens=_total(usages, "completion_tokens"),
        token_ns=token_ns,
    )


def _usage(whole: dict[str, Any]) -> list[dict[str, Any]]:
    usage = whole.get("usage")
    return [usage] if isinstance(usage, dict) else []


def _total(usages: Sequence[dict[str, Any]], name: str) -> int | None:
    counts = [usage.get(name) for usage in usages]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known and len(known) == len(counts) else None
