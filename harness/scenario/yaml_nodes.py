"""YAML text -> plain values and the line of every field; YAML 1.2 scalars, every key once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {**dict.fromkeys(("true", "True", "TRUE"), True), **dict.fromkeys(("false", "False", "FALSE"), False)}
_INT = re.compile(r"[-+]?[0-9]+")
_RADIX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in the text: where (1-based line, field path) and what."""

    line: int
    path: Path
    text: str


@dataclass(slots=True, kw_only=True)
class Document:
    """The plain value of a YAML text, the 1-based line of every key and item, and what was wrong with it."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def parse(text: str) -> Document:
    """The document in `text`; a syntax error is its only problem, then."""
    document = Document()
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 1
        document.problems.append(Problem(line=line, path=(), text=f"not valid YAML: {what}; mend this line"))
        return document
    except YAMLError as error:
        document.problems.append(Problem(line=1, path=(), text=f"not valid YAML: {_first_line(error)}"))
        return document
    except RecursionError:
        document.problems.append(Problem(line=1, path=(), text="nested deeper than any key here; mend the brackets"))
        return document
    if node is not None:
        document.value = _value(node, (), document, ())
    return document


def scalar(text: str) -> str | int | float | bool | None:
    """What a plain scalar means in the YAML 1.2 core schema: 1e3 is a number; no, on and 2020-01-01 are strings."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _value(node: Node, path: Path, document: Document, above: tuple[int, ...]) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if id(node) in above:
        _complain(document, node, path, "expected a value, got an alias that contains itself")
        return None
    above = (*above, id(node))
    if isinstance(node, MappingNode):
        return _mapping(node, path, document, above)
    if isinstance(node, SequenceNode):
        return [_value(item, (*path, index), document, above) for index, item in enumerate(node.value)]
    if isinstance(node, ScalarNode):
        if node.ctag is not None and str(node.ctag) and not str(node.ctag).startswith("tag:yaml.org,2002:"):
            _complain(document, node, path, f"expected a plain value, got the tag {node.tag}; remove it")
        return scalar(node.value) if node.style is None else node.value
    raise AssertionError(f"a node that is no mapping, sequence or scalar: {node!r}")


def _mapping(node: MappingNode, path: Path, document: Document, above: tuple[int, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            _complain(document, key_node, path, "expected a word as key, got a list or mapping")
            continue
        key = key_node.value
        if key in fields:
            first = f"first on line {document.lines[(*path, key)]}"
            _complain(document, key_node, (*path, key), f"expected every key once, got it again ({first}); keep one")
            continue
        document.lines[(*path, key)] = line
        fields[key] = _value(value_node, (*path, key), document, above)
    return fields


def _complain(document: Document, node: Node, path: Path, text: str) -> None:
    document.problems.append(Problem(line=node.start_mark.line + 1, path=path, text=text))


def _first_line(error: YAMLError) -> str:
    return str(error).strip().splitlines()[0]
