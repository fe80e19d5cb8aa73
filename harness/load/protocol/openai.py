"""The request protocols of OpenAI: completions and chat completions.

Answers: {"choices": [{"text" | "message": {"content"}}], "usage"}; streamed: server-sent events of the same, with
"delta" in place of "message", the choices of several prompts distinguished by "index", and [DONE] or a finish_reason of
each at the end. Beside the content, reasoning and tool calls are tokens too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engines.api import Dialect, GenerateParams
from harness.errors import UsageError
from harness.load.protocol.answer.failures import raise_if_error, raise_if_failed
from harness.load.protocol.answer.json_frames import Stream, json_bytes, parsed, short, stream_of
from harness.load.protocol.answer.stream_times import StreamTimes
from harness.load.protocol.answer.token_counts import Usage
from harness.load.protocol.interface import Answer, BadBody, Form, Marks
from harness.load.protocol.openai_choices import Written, choices_of, index_of
from harness.records import Prompt

_BASE = "/v1"
"""What OpenAI's clients call the base URL ends here; the operation follows."""

_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
_CUT = ("length", "max_tokens")
"""Reasons to finish without an end token."""
_UNKNOWN = frozenset({"do_sample", "details", "return_logprobs"})
"""Hugging Face's own; sampling is by temperature here, 0 unless the scenario asks for another one."""

_BESIDE = ("temperature", "seed")
"""Parameters that are fields beside a generation_config."""


class OpenAi:
    """One of the two: what is asked is chat where it was made so, or where the path has chat in it."""

    detail_parameters: Mapping[str, object] = {}
    rendered_parameters: Mapping[str, object] | None = None

    def __init__(self, default_path: str) -> None:
        self.default_path = default_path
        self._is_chat = _is_chat(default_path)

    def path(self, given: str) -> str:
        """A base URL, which ends in /v1, is completed by the operation."""
        if given.rstrip("/").endswith(_BASE):
            return given.rstrip("/") + self.default_path.removeprefix(_BASE)
        return given

    def body(self, form: Form, prompts: Sequence[Prompt], parameters: Mapping[str, object]) -> bytes:
        """One prompt is sent as a string, several as a list; a chat carries the messages of one."""
        fields = settings(form, parameters)
        if not (self._is_chat or _is_chat(form.path)):
            fields["prompt"] = prompts[0].text if len(prompts) == 1 else [prompt.text for prompt in prompts]
        elif len(prompts) == 1:
            fields["messages"] = prompts[0].sent_messages
        else:
            raise UsageError(
                f"endpoint path {form.path!r}: a chat request carries one prompt, "
                f"inputs_per_request asks for {len(prompts)}; set it to 1"
            )
        if form.stream:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
        return json_bytes(fields)

    def read(self, form: Form, body: bytes, marks: Marks, prompts: int) -> Answer:
        """The answer of either form; of a stream, the deltas joined."""
        return streamed(stream_of(body, marks), prompts) if form.stream else whole(parsed(body), prompts)


def settings(form: Form, parameters: Mapping[str, object]) -> dict[str, object]:
    """The fields of a body that state how to answer. Raises UsageError for what this server has no word for."""
    temperature = 1 if parameters.get("do_sample") else 0
    fields: dict[str, object] = {"model": form.model_name, "temperature": temperature, **form.dialect.fields}
    parameters = {name: value for name, value in parameters.items() if (name, value) != ("num_beams", 1)}
    if form.dialect.takes_generation_config:
        fields.update(_in_generation_config(form.dialect, parameters))
    else:
        fields.update({_NAMES.get(name, name): value for name, value in parameters.items() if name not in _UNKNOWN})
    if form.dialect.exact_tokens == "ignore_eos":
        fields.update(_exactly(fields.pop("min_tokens", 0), fields.get("max_tokens")))
    elif form.dialect.exact_tokens == "none" and fields.pop("min_tokens", 0):
        raise UsageError("min_new_tokens: this server has no word for a minimum; set it to 0")
    return fields


def _in_generation_config(dialect: Dialect, parameters: Mapping[str, object]) -> dict[str, object]:
    """The fields of transformers' server: all but temperature and seed is one JSON text."""
    given = {name: value for name, value in parameters.items() if value is not None}
    beside: dict[str, object] = {name: given[name] for name in given if name in _BESIDE}
    config = {name: given[name] for name in given if name not in (*_BESIDE, "details", "return_logprobs")}
    if dialect.exact_tokens == "no_end":
        neutral = GenerateParams()
        for name in config:
            if name not in _NAMES and config[name] != getattr(neutral, name, None):
                raise UsageError(f"{name}: this server takes none in continuous batching; use rolling_batch: disable")
        goes_on = _exactly(config.pop("min_new_tokens", 0), config["max_new_tokens"])
        config = {"max_new_tokens": config["max_new_tokens"], "eos_token_id": -1 if goes_on else list(dialect.end_ids)}
    return {**beside, "generation_config": json.dumps(config)}


def _exactly(least: object, most: object) -> dict[str, object]:
    """The field that asks for exactly `most` tokens, {} where fewer will do. Raises UsageError for a minimum between:
    this server has no word for it."""
    if not least:
        return {}
    if least != most:
        raise UsageError(
            f"min_new_tokens {least} of max_new_tokens {most}: this server writes either up to the maximum or exactly "
            "so many; set min_new_tokens to 0 or to the same number"
        )
    return {"ignore_eos": True}


def _is_chat(path: str) -> bool:
    return "/chat/" in path


def whole(body: Any, prompts: int) -> Answer:
    """The answer in a whole body. Raises NoAnswer."""
    raise_if_error(body)
    choices = choices_of(body)
    if choices is None:
        raise BadBody(f'expected {{"choices": [...]}}, got {short(body)}')
    written: list[Written] = []
    usage = Usage()
    for choice in sorted(choices, key=index_of):
        raise_if_failed(choice.get("finish_reason"))
        if not isinstance(choice.get("text"), str) and not isinstance(choice.get("message"), dict):
            raise BadBody(f'expected "text" or "message" in each choice, got {short(choice)}')
        written.append(Written())
        written[-1].take(choice)
    usage.take(body)
    return _answer(written, usage, prompts)


def streamed(stream: Stream, prompts: int) -> Answer:
    """The answer in a stream, its tokens with their times. Raises NoAnswer."""
    written: dict[int, Written] = {}
    ended: set[int] = set()
    usage, times = Usage(), StreamTimes()
    has_choices = not stream.frames
    for frame in stream.frames:
        raise_if_error(frame.value)
        choices = choices_of(frame.value)
        has_choices = has_choices or choices is not None
        so_far = usage.take(frame.value)
        added: list[tuple[str, str]] = []
        is_end = False
        for choice in choices or ():
            index, reason = index_of(choice), choice.get("finish_reason")
            raise_if_failed(reason)
            added.append(written.setdefault(index, Written()).take(choice))
            if reason:
                ended.add(index)
                is_end = is_end or reason not in _CUT
        times.note(frame.at_ns, added, so_far, is_end)
    if not has_choices:
        raise BadBody(f'expected {{"choices": [...]}} in the stream, got {short(stream.frames[0].value)}')
    if not stream.is_done and not (ended and ended >= written.keys()):
        raise BadBody(f"the stream was cut after {len(stream.frames)} frame(s): no finish_reason and no [DONE]")
    if not written and stream.is_done:
        written = {index: Written() for index in range(prompts)}
    answer = _answer([written[index] for index in sorted(written)], usage, prompts)
    return times.added_to(replace(answer, end_ns=stream.end_ns), usage)


def _answer(written: Sequence[Written], usage: Usage, prompts: int) -> Answer:
    if len(written) != prompts:
        raise BadBody(f"expected {prompts} answer(s), got {len(written)}")
    return Answer(
        parts=tuple(one.part(usage.generated if prompts == 1 else None) for one in written),
        input_tokens=usage.asked,
        output_tokens=usage.generated,
        cached_tokens=usage.cached,
    )
