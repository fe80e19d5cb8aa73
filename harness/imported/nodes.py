"""A node of a JSON document that knows its place, so that what is wrong there is refused in one sentence."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError

LARGEST = 1e15
"""More than any time, count or rate that was measured: 30,000 years in seconds, 30 years in microseconds."""
NEXT = "write the file again with its tool, or leave it out"


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the document in `file`; `path` leads to it ('benchmarks[0].duration'), '' is the whole."""

    value: Any
    file: str
    path: str = ""

    def refused(self, expected: str) -> UsageError:
        """The error that this value is not what was expected."""
        place = f"{self.file}: {self.path}" if self.path else self.file
        return UsageError(f"{place}: expected {expected}, got {_shown(self.value)}; {NEXT}")

    def has(self, *names: str) -> bool:
        """Whether it is a mapping with all these fields."""
        return isinstance(self.value, dict) and all(name in self.value for name in names)

    def at(self, name: str) -> Node:
        """A field that must be there. Raises UsageError."""
        if not isinstance(self.value, dict) or name not in self.value:
            raise self.refused(f"a field {name!r}")
        return Node(self.value[name], self.file, f"{self.path}.{name}" if self.path else name)

    def maybe(self, *names: str) -> Node | None:
        """A field, or one in a field, that may be absent or null on the way."""
        node = self
        for name in names:
            if not isinstance(node.value, dict) or node.value.get(name) is None:
                return None
            node = node.at(name)
        return node

    def items(self) -> list[Node]:
        """The items of a list. Raises UsageError."""
        if not isinstance(self.value, list):
            raise self.refused("a list")
        return [Node(item, self.file, f"{self.path}[{place}]") for place, item in enumerate(self.value)]

    def fields(self) -> list[tuple[str, Node]]:
        """The fields of a mapping, in order. Raises UsageError."""
        if not isinstance(self.value, dict):
            raise self.refused("named fields")
        return [(str(name), self.at(name)) for name in self.value]

    def number(self, low: float = 0.0) -> float:
        """A finite number from `low` on. Raises UsageError."""
        value = self.value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # An integer may be too large for a float: it is compared as it is.
        if not is_number or value != value or not low <= value <= LARGEST:
            raise self.refused(f"a number from {low:g} to {LARGEST:g}")
        return float(value)

    def whole(self) -> int:
        """A whole number from 0 on, as an integer or a float without a fraction. Raises UsageError."""
        value = self.number()
        if value != math.floor(value):
            raise self.refused("a whole number")
        return int(value)

    def nanoseconds(self) -> int:
        """A time in nanoseconds, exact. Raises UsageError."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 <= self.value < 1 << 62:
            raise self.refused("nanoseconds as a whole number")
        return self.value

    def text(self) -> str:
        """A text. Raises UsageError."""
        if not isinstance(self.value, str):
            raise self.refused("a text")
        return self.value


def documents(path: Path) -> list[Node]:
    """The JSON documents of a file: one, or one a line. Raises UsageError where it cannot be read or holds none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: expected a result file, got nothing there; check the path") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: expected a result file, got a folder; name the files in it") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected JSON text, got other bytes at {error.start}; {NEXT}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {NEXT}") from error
    if not text.strip():
        raise UsageError(f"{path}: expected a result as JSON, got an empty file; {NEXT}")
    whole, end = _first_value(text, str(path))
    if not text[end:].strip():
        return [Node(whole, str(path))]
    lines = text.splitlines()
    return [_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _first_value(text: str, where: str) -> tuple[Any, int]:
    begin = len(text) - len(text.lstrip())
    try:
        return json.JSONDecoder().raw_decode(text, begin)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where}:{error.lineno}: expected JSON, got a text that breaks off or is none; {NEXT}"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets without end
        raise UsageError(f"{where}: expected JSON, got what no number or nesting can be; {NEXT}") from error


def _line(line: str, where: str) -> Node:
    value, end = _first_value(line, where)
    if line[end:].strip():
        raise UsageError(f"{where}: expected one JSON document in a line, got more behind it; {NEXT}")
    return Node(value, where)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"a mapping of {len(value)} fields"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"{value!r:.60}"
