"""The model server's request body {"inputs", "parameters", "stream"}, checked before a job enters the queue."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from engines.api import GenerateParams
from engines.errors import RequestInvalid
from engines.nearest import did_you_mean
from engines.server.queue import NO_MORE, Asked

BODY_KEYS = ("inputs", "parameters", "stream", "options")
NICKNAMES = {
    "max_tokens": "max_new_tokens",
    "max_seq_len": "max_new_tokens",
    "max_output_len": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "beam_width": "num_beams",
    "beam_size": "num_beams",
    "len_penalty": "length_penalty",
    "random_seed": "seed",
    "logprobs": "return_logprobs",
}
"""What other servers call our parameters; offered as a suggestion, never silently translated."""

WHOLE_LENGTHS = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
"""Hugging Face's lengths of all that the decoder holds, its start token included: one more than the new tokens. Where
both are given the new tokens win, as there."""

WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(
        ("num_return_sequences", "best_of", "num_beam_groups", "typical_p", "encoder_repetition_penalty"), (1,)
    ),
    **dict.fromkeys(("top_n_tokens", "frequency_penalty", "presence_penalty", "diversity_penalty", "min_p"), (0,)),
    **dict.fromkeys(("penalty_alpha", "encoder_no_repeat_ngram_size", "epsilon_cutoff", "eta_cutoff"), (0,)),
    **dict.fromkeys(
        ("return_full_text", "decoder_input_details", "watermark", "ignore_eos", "ignore_eos_token"), (False,)
    ),
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "return_tensors", "truncation"), (False,)),
    **dict.fromkeys(("remove_invalid_values", "renormalize_logits"), (False,)),
    **dict.fromkeys(("stop", "stop_sequences", "stop_strings", "bad_words_ids", "suppress_tokens"), ([],)),
    **dict.fromkeys(
        ("truncate", "grammar", "adapter_id", "max_time", "forced_eos_token_id", "forced_bos_token_id"), ()
    ),
    **dict.fromkeys(("return_text", "skip_special_tokens"), (True,)),
    "use_cache": (True, False),
}
"""Parameters of Hugging Face, TGI and DJL for what this server does not do, which their clients send all the same: the
values that ask for nothing, null always among them. Any other value is refused."""

OPTIONS = ("use_cache", "wait_for_model", "use_gpu")
"""Options of Hugging Face's hosted API; they mean nothing here."""

_LIMITS: dict[str, tuple[type, float, float]] = {
    "max_new_tokens": (int, 1, 1 << 20),
    "min_new_tokens": (int, 0, 1 << 20),
    "num_beams": (int, 1, 1 << 10),
    "length_penalty": (float, -math.inf, math.inf),
    "do_sample": (bool, 0, 1),
    "temperature": (float, 0, math.inf),
    "top_k": (int, 0, 1 << 31),
    "top_p": (float, 0, 1),
    "repetition_penalty": (float, 0, math.inf),
    "no_repeat_ngram_size": (int, 0, 1 << 20),
    "seed": (int, 0, 1 << 63),
    "return_logprobs": (bool, 0, 1),
    "details": (bool, 0, 1),
    "add_special_tokens": (bool, 0, 1),
}
_POSITIVE = ("temperature", "top_p", "repetition_penalty")
PARAMETERS = (*(field.name for field in fields(GenerateParams)), "details", "add_special_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A request that makes sense. `inputs` are texts, or token ids; `is_list` is whether they came as a list, and so
    the answer must."""

    inputs: tuple[str | tuple[int, ...], ...]
    is_list: bool
    params: GenerateParams
    wants_details: bool
    wants_stream: bool
    asked: Asked = NO_MORE


def parse_body(data: bytes, defaults: Mapping[str, Any] = MappingProxyType({})) -> Body:
    """The request in `data`; `defaults` are the model's own parameters, for those it leaves out. Raises RequestInvalid
    with what was wrong, where, and what was expected."""
    body = json_object(data, "inputs")
    for key in body:
        if key not in BODY_KEYS:
            raise RequestInvalid(f"unknown key {key!r}{_hint(key, BODY_KEYS)}; expected {', '.join(BODY_KEYS)}")
    inputs, is_list = _inputs(body)
    parameters = body.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestInvalid(f"parameters: expected an object, got {kind_word(parameters)}")
    params, wants_details, adds_special = _parameters(parameters or {}, defaults)
    _check_options(body.get("options"))
    wants_stream = body.get("stream", False)
    if not isinstance(wants_stream, bool):
        raise RequestInvalid(f"stream: expected true or false, got {kind_word(wants_stream)}")
    if wants_stream and len(inputs) > 1:
        raise RequestInvalid(f"stream: expected one input, got {len(inputs)}; stream each in a separate request")
    return Body(
        inputs=inputs,
        is_list=is_list,
        params=params,
        wants_details=wants_details,
        wants_stream=wants_stream,
        asked=NO_MORE if adds_special else Asked(is_rendered=True),
    )


def json_object(data: bytes, key: str) -> dict[str, Any]:
    """The JSON object that a body holds, in which `key` is looked for. Raises RequestInvalid."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f'the body is not JSON ({error}); expected {{"{key}": ...}}') from None
    if not isinstance(body, dict):
        raise RequestInvalid(f"the body is {kind_word(body)}; expected an object with the key {key!r}")
    return body


def _inputs(body: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
    if "inputs" not in body:
        raise RequestInvalid("the key 'inputs' is missing; expected a string or a list of strings")
    inputs = body["inputs"]
    texts = inputs if isinstance(inputs, list) else [inputs]
    if not texts:
        raise RequestInvalid("inputs: the list is empty; expected at least one string")
    for index, text in enumerate(texts):
        where = f"inputs[{index}]" if isinstance(inputs, list) else "inputs"
        if not checked_text(where, text).strip():
            raise RequestInvalid(f"{where}: the text is empty")
    return tuple(texts), isinstance(inputs, list)


def checked_text(where: str, text: Any) -> str:
    """`text`, a string of whole characters. Raises RequestInvalid."""
    if not isinstance(text, str):
        raise RequestInvalid(f"{where}: expected a string, got {kind_word(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestInvalid(f"{where}: the text holds a lone surrogate escape; send whole characters") from None
    return text


def _parameters(parameters: dict[str, Any], defaults: Mapping[str, Any]) -> tuple[GenerateParams, bool, bool]:
    """The generation's own, whether details are wanted, and whether special tokens are added to the text."""
    values = _values(parameters)
    wants_details = bool(values.pop("details", False))
    adds_special = bool(values.pop("add_special_tokens", True))
    params = GenerateParams(**{**defaults, **values})
    if params.min_new_tokens > params.max_new_tokens and "min_new_tokens" not in values:
        params = replace(params, min_new_tokens=params.max_new_tokens)
    if params.do_sample and params.num_beams > 1 and not {"do_sample", "num_beams"} <= set(values):
        raise RequestInvalid(
            f"parameters: do_sample with num_beams {params.num_beams} is not offered, and one of them is the model's "
            "own (generation_config.json); send num_beams 1 or do_sample false"
        )
    if params.min_new_tokens > params.max_new_tokens:
        raise RequestInvalid(
            f"parameters.min_new_tokens: {params.min_new_tokens} is above max_new_tokens {params.max_new_tokens}"
        )
    return params, wants_details, adds_special


def _values(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that were given, checked, under our names."""
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in WITHOUT_EFFECT:
            check_without_effect(f"parameters.{name}", value, WITHOUT_EFFECT[name])
        elif name not in PARAMETERS and name not in WHOLE_LENGTHS:
            raise RequestInvalid(f"unknown parameter {name!r}{_hint(name, PARAMETERS)}; known: {', '.join(PARAMETERS)}")
        elif value is None:
            continue
        elif name in WHOLE_LENGTHS:
            values.setdefault(WHOLE_LENGTHS[name], _new_tokens(name, value))
        else:
            values[name] = _early_stopping(value) if name == "early_stopping" else _value(name, value)
    return values


def _check_options(options: Any) -> None:
    if options is None:
        return
    if not isinstance(options, dict):
        raise RequestInvalid(f"options: expected an object, got {kind_word(options)}")
    for name in options:
        if name not in OPTIONS:
            raise RequestInvalid(f"unknown option {name!r}{_hint(name, OPTIONS)}; known: {', '.join(OPTIONS)}")


def check_without_effect(where: str, value: Any, allowed: tuple[object, ...]) -> None:
    """Raises RequestInvalid where the value asks for what this server does not do; null never does."""
    if value is None or any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in allowed):
        return
    shown = " or ".join(json.dumps(one) for one in (*allowed, None))
    raise RequestInvalid(f"{where}: this server does not do that; leave it out, or send {shown}")


def _new_tokens(name: str, value: Any) -> int:
    """The new tokens that a length of all decoder tokens allows."""
    low = 2 if name == "max_length" else 0
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= 1 << 20:
        raise RequestInvalid(f"parameters.{name}: expected a whole number >= {low}, got {kind_word(value)}")
    return max(0, value - 1)


def _early_stopping(value: Any) -> bool | str:
    if not isinstance(value, bool) and value != "never":
        raise RequestInvalid(f'parameters.early_stopping: expected true, false or "never", got {kind_word(value)}')
    return bool(value) if isinstance(value, bool) else "never"


def _value(name: str, value: Any) -> bool | int | float:
    return checked_value(f"parameters.{name}", name, value)


def checked_value(where: str, name: str, value: Any) -> bool | int | float:
    """The value of our parameter `name`, in its range. Raises RequestInvalid."""
    kind, low, high = _LIMITS[name]
    if kind is bool:
        if not isinstance(value, bool):
            raise RequestInvalid(f"{where}: expected true or false, got {kind_word(value)}")
        return value
    word = "a whole number" if kind is int else "a number"
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (kind is int and not isinstance(value, int)):
        raise RequestInvalid(f"{where}: expected {word}, got {kind_word(value)}")
    if not low <= value <= high or (name in _POSITIVE and value == 0):
        raise RequestInvalid(f"{where}: {value!r} is out of range; expected {word} {_range(name, low, high)}")
    number: int | float = kind(value)
    return number


def _range(name: str, low: float, high: float) -> str:
    bound = f"> {low:g}" if name in _POSITIVE else f">= {low:g}"
    return bound if math.isinf(high) else f"{bound} and <= {high:g}"


def _hint(name: str, known: tuple[str, ...]) -> str:
    nickname = NICKNAMES.get(name, "")
    return did_you_mean(nickname if nickname in known else name, known)


def kind_word(value: Any) -> str:
    """What a value is, for an error."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value!r}")
