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

BODY_KEYS = ("inputs", "parameters", "stream")
NICKNAMES = {
    "max_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "max_seq_len": "max_new_tokens",
    "max_output_len": "max_new_tokens",
    "min_length": "min_new_tokens",
    "min_tokens": "min_new_tokens",
    "beam_width": "num_beams",
    "beam_size": "num_beams",
    "len_penalty": "length_penalty",
    "random_seed": "seed",
    "logprobs": "return_logprobs",
}
"""What other servers call our parameters; offered as a suggestion, never silently translated."""

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
}
_POSITIVE = ("temperature", "top_p", "repetition_penalty")
PARAMETERS = (*(field.name for field in fields(GenerateParams)), "details")


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A request that makes sense. `is_list` is whether inputs came as a list, and so the answer must."""

    inputs: tuple[str, ...]
    is_list: bool
    params: GenerateParams
    wants_details: bool
    wants_stream: bool


def parse_body(data: bytes, defaults: Mapping[str, Any] = MappingProxyType({})) -> Body:
    """The request in `data`; `defaults` are the model's own parameters, for those it leaves out. Raises RequestInvalid
    with what was wrong, where, and what was expected."""
    body = _object(data)
    for key in body:
        if key not in BODY_KEYS:
            raise RequestInvalid(f"unknown key {key!r}{_hint(key, BODY_KEYS)}; expected {', '.join(BODY_KEYS)}")
    inputs, is_list = _inputs(body)
    parameters = body.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestInvalid(f"parameters: expected an object, got {_kind(parameters)}")
    params, wants_details = _parameters(parameters or {}, defaults)
    wants_stream = body.get("stream", False)
    if not isinstance(wants_stream, bool):
        raise RequestInvalid(f"stream: expected true or false, got {_kind(wants_stream)}")
    if wants_stream and len(inputs) > 1:
        raise RequestInvalid(f"stream: expected one input, got {len(inputs)}; stream each in a separate request")
    return Body(inputs=inputs, is_list=is_list, params=params, wants_details=wants_details, wants_stream=wants_stream)


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f'the body is not JSON ({error}); expected {{"inputs": ...}}') from None
    if not isinstance(body, dict):
        raise RequestInvalid(f"the body is {_kind(body)}; expected an object with the key 'inputs'")
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
        if not isinstance(text, str):
            raise RequestInvalid(f"{where}: expected a string, got {_kind(text)}")
        if not text.strip():
            raise RequestInvalid(f"{where}: the text is empty")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise RequestInvalid(f"{where}: the text holds a lone surrogate escape; send whole characters")
    return tuple(texts), isinstance(inputs, list)


def _parameters(parameters: dict[str, Any], defaults: Mapping[str, Any]) -> tuple[GenerateParams, bool]:
    values: dict[str, Any] = {}
    wants_details = False
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise RequestInvalid(f"unknown parameter {name!r}{_hint(name, PARAMETERS)}; known: {', '.join(PARAMETERS)}")
        if name == "details":
            if not isinstance(value, bool):
                raise RequestInvalid(f"parameters.details: expected true or false, got {_kind(value)}")
            wants_details = value
        elif name != "seed" or value is not None:
            values[name] = _value(name, value)
    params = GenerateParams(**{**defaults, **values})
    if "min_new_tokens" not in values:
        params = replace(params, min_new_tokens=min(params.min_new_tokens, params.max_new_tokens))
    if params.do_sample and params.num_beams > 1 and not {"do_sample", "num_beams"} <= set(values):
        raise RequestInvalid(
            f"parameters: do_sample with num_beams {params.num_beams} is not offered, and one of them is the model's "
            "own (generation_config.json); send num_beams 1 or do_sample false"
        )
    if params.min_new_tokens > params.max_new_tokens:
        raise RequestInvalid(
            f"parameters.min_new_tokens: {params.min_new_tokens} is above max_new_tokens {params.max_new_tokens}"
        )
    return params, wants_details


def _value(name: str, value: Any) -> bool | int | float:
    kind, low, high = _LIMITS[name]
    where = f"parameters.{name}"
    if kind is bool:
        if not isinstance(value, bool):
            raise RequestInvalid(f"{where}: expected true or false, got {_kind(value)}")
        return value
    word = "a whole number" if kind is int else "a number"
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (kind is int and not isinstance(value, int)):
        raise RequestInvalid(f"{where}: expected {word}, got {_kind(value)}")
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


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value!r}")
