"""Requests and answers against botocore's own service model: shapes, required members, bounds, patterns, enums."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import botocore.session
from botocore.validate import ParamValidator


@cache
def service(name: str) -> Any:
    """botocore's model of a service."""
    return botocore.session.get_session().get_service_model(name)


def request_fault(service_name: str, operation: str, parameters: dict[str, Any]) -> str:
    """What AWS would refuse about this request; '' when nothing."""
    shape = service(service_name).operation_model(operation).input_shape
    report = ParamValidator().validate(parameters, shape).generate_report()
    return report or _bounds(shape, parameters, "")


def check_answer(service_name: str, operation: str, answer: dict[str, Any]) -> None:
    """AssertionError when the emulator's own answer is not of the operation's shape."""
    shape = service(service_name).operation_model(operation).output_shape
    if shape is None:
        assert not answer, f"{operation} answers nothing"
        return
    report = ParamValidator().validate(answer, shape).generate_report()
    assert not report, f"{operation}: {report}"
    assert not _bounds(shape, answer, ""), f"{operation}: {_bounds(shape, answer, '')}"


def _bounds(shape: Any, value: Any, where: str) -> str:
    """botocore checks minima only; AWS checks these too."""
    faults: list[str] = []
    if shape.type_name == "structure":
        faults = [_bounds(shape.members[key], item, f"{where}.{key}") for key, item in value.items()]
    elif shape.type_name == "list":
        faults = [_bounds(shape.member, item, f"{where}[{index}]") for index, item in enumerate(value)]
    elif shape.type_name == "map":
        faults = [_bounds(shape.value, item, f"{where}.{key}") for key, item in value.items()]
    elif shape.type_name == "string":
        faults = [_string(shape, value, where)]
    elif "max" in shape.metadata and isinstance(value, int | float) and value > shape.metadata["max"]:
        faults = [f"Value '{value}' at '{where[1:]}' must be less than or equal to {shape.metadata['max']}"]
    return next((fault for fault in faults if fault), "")


def _string(shape: Any, value: str, where: str) -> str:
    if shape.enum and value not in shape.enum:
        return f"Value '{value}' at '{where[1:]}' must satisfy enum value set: [{', '.join(shape.enum[:4])}, ...]"
    longest = shape.metadata.get("max")
    if longest is not None and len(value) > longest:
        return f"Value at '{where[1:]}' must have length less than or equal to {longest}"
    pattern = shape.metadata.get("pattern")
    try:
        if pattern and not re.fullmatch(pattern.replace("\\p{L}\\p{Z}\\p{N}", r"\w\s"), value):
            return f"Value '{value}' at '{where[1:]}' must satisfy regular expression pattern: {pattern}"
    except re.error:
        return ""  # a Java-only pattern
    return ""
