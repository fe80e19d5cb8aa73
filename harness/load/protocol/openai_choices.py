"""The `choices` in OpenAI's answers and streams: text, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.load.protocol.answer.json_frames import joined, short, whole_text
from harness.load.protocol.answer.token_counts import ids_of
from harness.load.protocol.interface import BadBody, Part

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""What servers call the text that a model thinks before it answers; where two hold the same, it is taken once."""


def choices_of(value: Any) -> list[dict[str, Any]] | None:
    """The choices of a body or a frame; None where it has none. Raises BadBody where they are something else."""
    if not isinstance(value, dict):
        raise BadBody(f'expected an object with "choices", got {short(value)}')
    choices = value.get("choices")
    if choices is None:
        return None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BadBody(f'expected a list of objects in "choices", got {short(choices)}')
    return choices


def index_of(choice: Mapping[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


class Written:
    """What one choice holds so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[str] = []
        self._ids: tuple[int, ...] | None = None

    def take(self, choice: Mapping[str, Any]) -> tuple[str, str]:
        """Add a choice of a body or a frame; (reasoning, output) that a frame's delta added. A whole message is no
        delta: it stands for all that came before it, and adds nothing that could be timed."""
        whole, delta = choice.get("message"), choice.get("delta")
        source = (
            delta if isinstance(delta, dict) else whole if isinstance(whole, dict) else {"content": choice.get("text")}
        )
        content, thought = _content(source.get("content"))
        reasoning = thought + next((text for key in _REASONING if (text := _text(source.get(key)))), "")
        text = content + _text(source.get("refusal"))
        calls = _calls(source.get("tool_calls")) + _calls([{"function": source.get("function_call")}])
        if source is whole:
            self._texts, self._reasoning, self._calls = [], [], []
        self._texts.append(text)
        self._reasoning.append(reasoning)
        self._calls.append(calls)
        ids = ids_of(choice.get("token_ids"))
        self._ids = self._ids if ids is None else (*(self._ids or ()), *ids)
        return ("", "") if source is whole else (reasoning, text + calls)

    def part(self, tokens: int | None) -> Part:
        """The part that all of it makes."""
        text, reasoning, calls = (joined(each) for each in (self._texts, self._reasoning, self._calls))
        return Part(
            text=whole_text(text),
            reasoning=whole_text(reasoning),
            calls=whole_text(calls),
            tokens=tokens,
            token_ids=self._ids,
        )


def _text(value: Any) -> str:
    """A text that may be missing. Raises BadBody."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadBody(f"expected text, got {short(value)}")
    return value


def _content(value: Any) -> tuple[str, str]:
    """(text, reasoning) of a content, which may be a list of typed pieces."""
    if not isinstance(value, list):
        return _text(value), ""
    texts: list[str] = []
    thoughts: list[str] = []
    for piece in value:
        fields = piece if isinstance(piece, dict) else {"text": piece}
        thought = fields.get("thinking")
        if isinstance(thought, list):
            thoughts += [_text(each.get("text")) for each in thought if isinstance(each, dict)]
        elif thought is not None:
            thoughts.append(_text(thought))
        else:
            (thoughts if fields.get("type") == "reasoning" else texts).append(_text(fields.get("text")))
    return "".join(texts), "".join(thoughts)


def _calls(value: Any) -> str:
    """Names and arguments of tool calls, which is what the model wrote of them."""
    calls = value if isinstance(value, list) else []
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    return "".join(
        _text(function.get(key))
        for function in functions
        if isinstance(function, dict)
        for key in ("name", "arguments")
    )
