"""Frozen records to JSON and back, exactly, driven by their type annotations.

Non-finite floats, which JSON cannot say, become {"$float": "nan" | "inf" | "-inf"}. A field with a default may be
absent (a record that grew keeps reading old files); an unknown field is refused.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class DecodeError(ValueError):
    """The JSON does not fit the record; the message starts with the field path."""


def to_json(value: Any) -> Any:
    """A JSON-able copy of a record, mapping, tuple or scalar."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is not a record, mapping, tuple or scalar: {value!r}")


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """The record of type `kind` that `to_json` wrote. Raises DecodeError."""
    return _decode(kind, value, where or kind.__name__)  # type: ignore[no-any-return]


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, value, where)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, where)
    if origin is Literal:
        if value not in get_args(kind):
            raise DecodeError(f"{where}: expected one of {get_args(kind)}, got {value!r}")
        return value
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, where)
    if origin is not None and issubclass(origin, Mapping):
        item = get_args(kind)[1]
        return {key: _decode(item, entry, f"{where}.{key}") for key, entry in _want(dict, value, where).items()}
    return _decode_scalar(kind, value, where)


def _decode_record(kind: Any, value: Any, where: str) -> Any:
    given = _want(dict, value, where)
    hints, required = _shape(kind)
    if unknown := sorted(given.keys() - hints.keys()):
        raise DecodeError(f"{where}: unknown field {unknown[0]!r} for {kind.__name__}")
    for name in required:
        if name not in given:
            raise DecodeError(f"{where}.{name}: missing in {kind.__name__}")
    return kind(**{name: _decode(hints[name], entry, f"{where}.{name}") for name, entry in given.items()})


@cache
def _shape(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A record's fields with their types, and those that must be given. Resolving annotations is most of a decoding."""
    hints, missing = get_type_hints(kind), dataclasses.MISSING
    fields = dataclasses.fields(kind)
    required = (field.name for field in fields if field.default is missing and field.default_factory is missing)
    return {field.name: hints[field.name] for field in fields}, tuple(required)


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The member that fits without conversion; for scalars the JSON type decides (true is bool, 1 int, 1.0 float)."""
    if value is None and type(None) in kinds:
        return None
    members = [kind for kind in kinds if kind is not type(None)]
    if type(value) in members:
        return value
    for kind in members:
        try:
            return _decode(kind, value, where)
        except DecodeError:
            continue
    raise DecodeError(f"{where}: expected {' or '.join(map(str, kinds))}, got {value!r}")


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = _want(list, value, where)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode(kinds[0], item, f"{where}[{place}]") for place, item in enumerate(items))
    if len(kinds) != len(items):
        raise DecodeError(f"{where}: expected {len(kinds)} items, got {len(items)}")
    pairs = zip(kinds, items, strict=True)
    return tuple(_decode(kind, item, f"{where}[{place}]") for place, (kind, item) in enumerate(pairs))


def _decode_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind in (Any, object):
        return _revive(value)
    if kind is float:
        if isinstance(value, dict) and set(value) == {"$float"}:
            return float(value["$float"])
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif isinstance(kind, type) and type(value) is kind:
        return value
    raise DecodeError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {value!r}")


def _revive(value: Any) -> Any:
    """Plain JSON with its non-finite floats restored; tuples stay lists, nothing told them apart."""
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            return float(value["$float"])
        return {key: _revive(item) for key, item in value.items()}
    return [_revive(item) for item in value] if isinstance(value, list) else value


def _want(kind: type[T], value: Any, where: str) -> T:
    if not isinstance(value, kind):
        raise DecodeError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value
