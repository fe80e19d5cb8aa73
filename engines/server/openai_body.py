"""Request bodies of OpenAI's completions and chat completions, checked, in our own terms.

Every field is honoured, means nothing to an answer, or is refused: what this server does not do is accepted only with
the value that asks for nothing, and an unknown field is refused with the nearest known one, as at OpenAI (vLLM ignores
it). vLLM's names for what OpenAI has no word for are known: top_k, min_tokens, ignore_eos, repetition_penalty ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.api import GenerateParams
from engines.errors import RequestInvalid
from engines.nearest import did_you_mean
from engines.server.body import Body, check_without_effect, checked_text, checked_value, json_object, kind_word
from engines.server.queue import Asked

DEFAULT_TOKENS = 16
"""max_tokens of a completion that names none, as at OpenAI and vLLM; a chat fills the model's context."""
NO_LIMIT = 2048
"""The context that such a chat may fill where the model has no limit."""
MOST_STOPS = 64
"""Stop strings of one request; OpenAI takes 4, vLLM any number."""

_BOTH = (
    "model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs",
    "top_k", "min_tokens", "ignore_eos", "repetition_penalty", "no_repeat_ngram_size", "return_token_ids",
)  # fmt: skip
_COMPLETION = (*_BOTH, "prompt")
_CHAT = (*_BOTH, "messages", "max_completion_tokens", "top_logprobs", "chat_template_kwargs", "add_generation_prompt")

_MEANINGLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
     "parallel_tool_calls", "request_id", "cache_salt"}
)  # fmt: skip
"""Fields that change no answer here, whatever they hold."""

_ABSENT: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("n", "best_of", "num_beams", "length_penalty"), (1,)),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "min_p", "priority"), (0,)),
    **dict.fromkeys(("echo", "use_beam_search", "early_stopping", "include_stop_str_in_output"), (False,)),
    "continue_final_message": (False,),
    **dict.fromkeys(("tools", "functions", "stop_token_ids", "bad_words", "allowed_token_ids"), ([],)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    **dict.fromkeys(("prompt_logprobs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"), ()),
    **dict.fromkeys(("structured_outputs", "audio", "prediction", "web_search_options", "reasoning_effort"), ()),
    **dict.fromkeys(("verbosity", "chat_template", "documents", "truncate_prompt_tokens"), ()),
    "logit_bias": ({},),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
}
"""What this server does not do, and the values that do not ask for it (null never does)."""

_PARAMETERS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    **{name: name for name in ("top_p", "seed", "repetition_penalty", "no_repeat_ngram_size")},
}
"""Their name -> ours, in the order in which the later wins."""
_MODELS = ("temperature", "top_p", "top_k", "repetition_penalty", "no_repeat_ngram_size")
"""What a request leaves out is as the model's generation_config.json has it, as in vLLM; the rest of that file is not
for these requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiBody:
    """A request that makes sense. `messages` are a chat's, still to be rendered; then `body` has no inputs yet."""

    model: str | None
    body: Body
    messages: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any]
    add_generation_prompt: bool = True
    include_usage: bool = False
    usage_in_every_chunk: bool = False
    wants_logprobs: bool = False
    lists_likeliest: bool = False
    wants_token_ids: bool = False


def parse_completion(data: bytes, defaults: Mapping[str, Any]) -> OpenAiBody:
    """The body of POST /v1/completions. Raises RequestInvalid, its message beginning with the field."""
    fields = _known(json_object(data, "prompt"), _COMPLETION)
    inputs, is_list = _prompts(fields.get("prompt"))
    listed = _whole("logprobs", fields.get("logprobs"))
    return _request(fields, defaults, inputs=inputs, is_list=is_list, listed=listed, wants_logprobs=listed is not None)


def parse_chat(data: bytes, defaults: Mapping[str, Any], context: int | None) -> OpenAiBody:
    """The body of POST /v1/chat/completions; `context` are the model's tokens of prompt and answer, None: no limit."""
    fields = _known(json_object(data, "messages"), _CHAT)
    wants_logprobs = _flag(fields, "logprobs", default=False)
    listed = _whole("top_logprobs", fields.get("top_logprobs"))
    if listed is not None and not wants_logprobs:
        raise RequestInvalid("top_logprobs: expected logprobs true beside it")
    return _request(
        fields,
        defaults,
        messages=_messages(fields.get("messages")),
        listed=listed,
        wants_logprobs=wants_logprobs,
        context=NO_LIMIT if context is None else context,
    )


def _request(
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    inputs: tuple[str | tuple[int, ...], ...] = (),
    is_list: bool = False,
    messages: tuple[Mapping[str, Any], ...] = (),
    listed: int | None,
    wants_logprobs: bool,
    context: int | None = None,
) -> OpenAiBody:
    has_limit = any(fields.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))
    params = _params(fields, defaults, wants_logprobs, has_limit=has_limit or context is None)
    _check_listed(listed, params)
    stream = _flag(fields, "stream", default=False)
    if stream and len(inputs) > 1:
        raise RequestInvalid(f"stream: expected one prompt, got {len(inputs)}; stream each in a separate request")
    options = _stream_options(fields.get("stream_options"), stream=stream)
    body = Body(
        inputs=inputs,
        is_list=is_list,
        params=params,
        wants_details=True,
        wants_stream=stream,
        asked=Asked(
            is_rendered=bool(messages),
            stop=_stops(fields.get("stop")),
            context=None if has_limit else context,
            wants_pieces=stream or wants_logprobs,
        ),
    )
    return OpenAiBody(
        model=None if fields.get("model") is None else checked_text("model", fields["model"]),
        body=body,
        messages=messages,
        variables=_object(fields, "chat_template_kwargs"),
        add_generation_prompt=_flag(fields, "add_generation_prompt", default=True),
        include_usage=options.get("include_usage", False),
        usage_in_every_chunk=options.get("continuous_usage_stats", False),
        wants_logprobs=wants_logprobs,
        lists_likeliest=bool(listed),
        wants_token_ids=_flag(fields, "return_token_ids", default=False),
    )


def _known(fields: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The fields, where each is one that this server knows with a value that it can honour."""
    for name, value in fields.items():
        if name in known or name in _MEANINGLESS:
            continue
        if name not in _ABSENT:
            raise RequestInvalid(f"{name}: unknown field{did_you_mean(name, known)}; known: {', '.join(known)}")
        check_without_effect(name, value, _ABSENT[name])
    return fields


def _prompts(prompt: Any) -> tuple[tuple[str | tuple[int, ...], ...], bool]:
    """The prompts, and whether they came as a list of them: a text, texts, one list of token ids, or several."""
    if prompt is None:
        raise RequestInvalid("prompt: missing; expected a string, a list of strings, or token ids")
    if not isinstance(prompt, list):
        return (_prompt("prompt", prompt),), False
    if prompt and all(_is_id(one) for one in prompt):
        return (tuple(prompt),), False
    if not prompt:
        raise RequestInvalid("prompt: the list is empty; expected at least one prompt")
    return tuple(_prompt(f"prompt[{index}]", one) for index, one in enumerate(prompt)), True


def _prompt(where: str, prompt: Any) -> str | tuple[int, ...]:
    if isinstance(prompt, list):
        if not prompt or not all(_is_id(one) for one in prompt):
            raise RequestInvalid(f"{where}: expected token ids, which are whole numbers >= 0")
        return tuple(prompt)
    if checked_text(where, prompt) == "":
        raise RequestInvalid(f"{where}: the text is empty")
    return str(prompt)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _messages(messages: Any) -> tuple[Mapping[str, Any], ...]:
    """The messages with their content as text: what most templates can read."""
    if not isinstance(messages, list) or not messages:
        what = "an empty list" if messages == [] else kind_word(messages)
        raise RequestInvalid(f'messages: expected a list of {{"role", "content"}}, got {what}')
    return tuple(_message(f"messages[{index}]", message) for index, message in enumerate(messages))


def _message(where: str, message: Any) -> Mapping[str, Any]:
    if not isinstance(message, dict):
        raise RequestInvalid(f'{where}: expected {{"role", "content"}}, got {kind_word(message)}')
    role = checked_text(f"{where}.role", message.get("role"))
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return {**message, "content": ""}
    return {**message, "role": role, "content": _content(f"{where}.content", content)}


def _content(where: str, content: Any) -> str:
    """The text of a content, of several parts joined by newlines, as vLLM does."""
    if not isinstance(content, list):
        return checked_text(where, content)
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise RequestInvalid(f"{where}[{index}]: expected a part of type 'text', got {kind!r}")
        texts.append(checked_text(f"{where}[{index}].text", part.get("text")))
    return "\n".join(texts)


def _params(
    fields: Mapping[str, Any], defaults: Mapping[str, Any], wants_logprobs: bool, *, has_limit: bool
) -> GenerateParams:
    values: dict[str, Any] = {"top_k": 0, **{name: defaults[name] for name in _MODELS if name in defaults}}
    values["max_new_tokens"] = DEFAULT_TOKENS
    for name, ours in _PARAMETERS.items():
        if fields.get(name) is not None:
            values[ours] = checked_value(name, ours, fields[name])
    if fields.get("top_k") is not None:
        values["top_k"] = 0 if fields["top_k"] == -1 else checked_value("top_k", "top_k", fields["top_k"])
    is_greedy = fields.get("temperature") == 0 and not isinstance(fields["temperature"], bool)
    if is_greedy:
        values.pop("temperature", None)
    elif fields.get("temperature") is not None:
        values["temperature"] = checked_value("temperature", "temperature", fields["temperature"])
    if _flag(fields, "ignore_eos", default=False):
        if not has_limit:
            raise RequestInvalid("ignore_eos: expected max_tokens beside it, the number of tokens to write")
        values["min_new_tokens"] = values["max_new_tokens"]
    if has_limit and values.get("min_new_tokens", 0) > values["max_new_tokens"]:
        raise RequestInvalid(f"min_tokens: {values['min_new_tokens']} is above max_tokens {values['max_new_tokens']}")
    return GenerateParams(**values, do_sample=not is_greedy, return_logprobs=wants_logprobs)


def _check_listed(listed: int | None, params: GenerateParams) -> None:
    """The likeliest tokens are not known, but for the chosen one where it is the likeliest."""
    if listed is not None and (listed > 1 or (listed == 1 and params.do_sample)):
        raise RequestInvalid(
            "logprobs: this server knows the chosen token's log-probability, not its rivals'; ask for 0 alternatives "
            "(or 1 with temperature 0)"
        )


def _stops(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise RequestInvalid(f"stop: expected a string or a list of at most {MOST_STOPS}, got {kind_word(stop)}")
    for one in stops:
        if checked_text("stop", one) == "":
            raise RequestInvalid("stop: expected strings that are not empty")
    return tuple(stops)


def _stream_options(options: Any, *, stream: bool) -> dict[str, bool]:
    if options is None:
        return {}
    if not stream:
        raise RequestInvalid("stream_options: expected stream true beside it")
    if not isinstance(options, dict):
        raise RequestInvalid(f"stream_options: expected an object, got {kind_word(options)}")
    known = ("include_usage", "continuous_usage_stats", "include_obfuscation")
    for name in options:
        if name not in known:
            raise RequestInvalid(f"stream_options: unknown field {name!r}; known: {', '.join(known)}")
    return {name: _flag(options, name, default=False) for name in known}


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise RequestInvalid(f"{name}: expected an object, got {kind_word(value)}")
    return value or {}


def _flag(fields: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestInvalid(f"{name}: expected true or false, got {kind_word(value)}")
    return default if value is None else value


def _whole(name: str, value: Any) -> int | None:
    """A count; null, and false, which asks for none, are None."""
    if value is None or value is False:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestInvalid(f"{name}: expected a whole number >= 0, got {kind_word(value)}")
    return value
