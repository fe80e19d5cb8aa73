"""Problems in a user's YAML file: reading it, and one sentence for each of pydantic's complaints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

from engines.nearest import nearest
from harness.errors import ScenarioError
from harness.scenario.fields import did_you_mean, sentence
from harness.scenario.yaml_nodes import Document, scalar

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number >= {ge:g}",
    "less_than": "a number < {lt:g}",
    "less_than_equal": "a number <= {le:g}",
    "literal_error": "{expected}",
    "string_too_short": "some text",
    "too_short": "at least {min_length} item",
    "string_pattern_mismatch": "text like {pattern}",
}
"""pydantic's error type -> what was expected, in the user's words."""
_HINTS = {
    "tuple_type": "begin each item with '- '",
    "dict_type": "indent 'key: value' lines below it",
    "model_type": "indent 'key: value' lines below it",
    "bool_type": "write true or false without quotes",
}
_HINT_FOR_NUMBER = {"string_type": "write it in quotes"}
_HINT_FOR_TEXT = {"int_type": "write it without quotes", "float_type": "write it without quotes"}


def read_text(path: Path, kind: str) -> str:
    """The text of a user's `kind` of file ('scenario', 'rules'). Raises ScenarioError: not there, not UTF-8."""
    if path.is_dir():
        raise ScenarioError(f"{path}: expected a {kind} file, got a folder; name a .yaml file in it{_listing(path)}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ScenarioError(f"{path}: expected a {kind} file, got nothing there{_near_file(path)}") from None
    except OSError as error:
        raise ScenarioError(f"{path}: cannot read the {kind}: {error.strerror}; check its permissions") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ScenarioError(
            f"{path}:{line}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}; save the file as UTF-8"
        ) from None


def _listing(folder: Path) -> str:
    names = sorted(each.name for each in folder.glob("*.yaml"))[:8]
    return f" ({', '.join(names)})" if names else ""


def _near_file(path: Path) -> str:
    names = [each.name for each in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = nearest(path.name, names)
    return f"; did you mean {str(path.parent / near)!r}?" if near else "; check the path"


def dotted(path: Iterable[str | int]) -> str:
    """'workload.load.users: ', or '' for the whole file."""
    joined = ".".join(str(part) for part in path)
    return f"{joined}: " if joined else ""


def yaml_problems(path: Path, document: Document) -> list[tuple[int, str]]:
    """(line, sentence) of everything wrong in the YAML text itself."""
    return [(each.line, f"{path}:{each.line}: {dotted(each.path)}{each.text}") for each in document.problems]


def line_of(lines: Mapping[tuple[str | int, ...], int], path: Sequence[str | int]) -> int:
    """The line of the field, or of its nearest enclosing one that is in the file."""
    prefixes = (tuple(path[:end]) for end in range(len(path), -1, -1))
    return next((lines[prefix] for prefix in prefixes if prefix in lines), 1)


def explained(details: ErrorDetails, name: object, known: Sequence[str], words: Mapping[str, str] | None = None) -> str:
    """'expected ..., got ...; hint' of one pydantic error about the field `name`, where the keys `known` may stand;
    `words` go before EXPECTED."""

    kind, got, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "expected":
        return str(context["text"])
    if kind == "missing":
        return "expected a value, got nothing; this key is required"
    if kind == "extra_forbidden":
        hint = did_you_mean(name, known) or f"known: {', '.join(known)}"
        return f"expected a known key, got {str(name)!r}; {hint}"
    table = {**EXPECTED, **(words or {})}
    what = table[kind].format(**context) if kind in table else details["msg"]
    if words is not None and kind in words:
        hint = ""
    else:
        of_type = _HINT_FOR_TEXT if _is_quoted_number(got) else _HINT_FOR_NUMBER if isinstance(got, int | float) else {}
        hint = (_HINTS | of_type).get(kind, "")
    return sentence(what, list(got) if isinstance(got, tuple) else got, hint)


def _is_quoted_number(got: Any) -> bool:

    return isinstance(got, str) and isinstance(scalar(got), int | float)
