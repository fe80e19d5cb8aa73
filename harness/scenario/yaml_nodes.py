"""YAML text to plain values with the line of every node, and back: YAML 1.2 scalars, no duplicate keys."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]

MOST_VALUES = 100_000
"""A text with more values than this, an alias counted wherever it is used, is refused: a few lines of aliases of
aliases would otherwise become billions of values."""

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {**dict.fromkeys(("true", "True", "TRUE"), True), **dict.fromkeys(("false", "False", "FALSE"), False)}
_INT = re.compile(r"[-+]?[0-9]{1,4300}")  # Python reads no longer ones
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


_PLAIN = "plain"
"""The tag of a scalar that has neither quotes nor a tag."""
_TEXT_TAG = "tag:yaml.org,2002:str"
_READ_AS_WRITTEN = frozenset(f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "int", "float", "bool", "null"))


class _Loader(yaml.SafeLoader):
    """PyYAML's reader, which leaves the meaning of a plain scalar to `scalar`."""

    def resolve(self, kind: type[Node], value: str | None, implicit: Any) -> str:
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else _TEXT_TAG
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


class _TooManyValues(Exception):
    """The walk has met more than MOST_VALUES values."""


def parse(text: str) -> Document:
    """The document in `text`; a syntax error is its only problem, then."""
    document = Document()
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            document.value = _value(node, (), document, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        return _refused(mark.line + 1 if mark else 1, f"not valid YAML: {what}; correct this line")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{error.character:04X}, which YAML does not allow"
        return _refused(line, f"not valid YAML: {what}; remove it")
    except RecursionError:
        return _refused(1, "nested deeper than any key here; correct the brackets")
    except _TooManyValues:
        return _refused(1, f"expected at most {MOST_VALUES:,} values, got more; write fewer aliases (*name)")
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


def write(value: Any) -> str:
    """YAML text that `parse` reads back as `value`: mappings as blocks, lists of scalars in one line."""
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=None, sort_keys=False, width=119, allow_unicode=True)


_FOLDED = "\x85\u2028\u2029"
"""Line breaks of YAML 1.1 that a plain scalar would read back as blanks."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer, which quotes what YAML 1.1 would misread, and also what `scalar` would."""

    def represent_str(self, data: str) -> ScalarNode:
        style = None if scalar(data) == data else "'"
        if any(mark in data for mark in _FOLDED):
            style = '"'  # escapes them
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_str)


def _value(node: Node, path: Path, document: Document, above: tuple[int, ...]) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if len(document.lines) > MOST_VALUES:
        raise _TooManyValues
    if id(node) in above:
        _complain(document, node, path, "expected a value, got an alias that contains itself")
        return None
    above = (*above, id(node))
    if node.tag not in (_PLAIN, _TEXT_TAG, *_READ_AS_WRITTEN):
        _complain(document, node, path, f"expected a plain value, got the tag {node.tag}; remove it")
    if isinstance(node, MappingNode):
        return _mapping(node, path, document, above)
    if isinstance(node, SequenceNode):
        return [_value(item, (*path, index), document, above) for index, item in enumerate(node.value)]
    if isinstance(node, ScalarNode):
        return node.value if node.tag == _TEXT_TAG else scalar(node.value)
    raise AssertionError(f"a node that is no mapping, sequence or scalar: {node!r}")


def _mapping(node: MappingNode, path: Path, document: Document, above: tuple[int, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            _complain(document, key_node, path, "expected a word as key, got a list or mapping")
            continue
        key = key_node.value
        if key == "<<" and key_node.tag == _PLAIN:
            _complain(
                document, key_node, path, "expected keys, got a merge (<<), which is not read; write the keys out"
            )
            continue
        if key in fields:
            first = f"first on line {document.lines[(*path, key)]}"
            _complain(document, key_node, (*path, key), f"expected every key once, got it again ({first}); keep one")
            continue
        document.lines[(*path, key)] = line
        fields[key] = _value(value_node, (*path, key), document, above)
    return fields


def _refused(line: int, text: str) -> Document:
    return Document(problems=[Problem(line=line, path=(), text=text)])


def _complain(document: Document, node: Node, path: Path, text: str) -> None:
    document.problems.append(Problem(line=node.start_mark.line + 1, path=path, text=text))
