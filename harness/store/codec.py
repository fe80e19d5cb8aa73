"""Codec of stored records: frozen dataclasses to JSON and back, driven by their type annotations.

Non-finite floats, which JSON cannot express, become {"$float": "nan" | "inf" | "-inf"}. A field with a default may be
absent (a record that grew keeps reading old files); an unknown field is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

T = TypeVar("T")


class DecodeError(ValueError):
    """The JSON does not fit the record; the message starts with the field path."""


def to_json(value: Any) -> Any:
    """A JSON-able copy of a record, mapping, tuple or scalar. Raises ValueError for anything else."""
    return _finite(to_jsonable_python(value))


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """The record of type `kind` that `to_json` wrote; half a surrogate pair becomes '?'. Raises DecodeError."""
    text = json.dumps(_revived(value), ensure_ascii=False).encode("utf-8", "replace")
    try:
        return _adapter(kind).validate_json(text, strict=True, extra="forbid")  # type: ignore[arg-type,no-any-return]
    except ValidationError as error:
        raise DecodeError(_sentence(where or kind.__name__, value, error.errors(include_url=False))) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            return float(value["$float"])
        return {key: _revived(item) for key, item in value.items()}
    return [_revived(item) for item in value] if isinstance(value, list) else value


def _sentence(where: str, value: Any, errors: Sequence[ErrorDetails]) -> str:
    """The first field that is wrong, with everything that it may be."""
    path = _path_in(value, errors[0])
    place = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    if errors[0]["type"] == "missing":
        return f"{place}: missing"
    if errors[0]["type"] == "unexpected_keyword_argument":
        return f"{place}: unknown field"
    if errors[0]["type"] == "value_error":  # what the record itself refuses
        return f"{place}: {errors[0]['ctx']['error']}"
    expected = (error["msg"].removeprefix("Input should be ") for error in errors if _path_in(value, error) == path)
    return f"{place}: expected {' or '.join(expected)}, got {errors[0]['input']!r}"


def _path_in(value: Any, error: ErrorDetails) -> list[int | str]:
    """pydantic's place of the error without its names for the members of a union."""
    path: list[int | str] = []
    for part in error["loc"]:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]  # type: ignore[index]
            path.append(part)
    return [*path, error["loc"][-1]] if error["type"] == "missing" else path
