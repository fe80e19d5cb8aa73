"""The text format of java.util.Properties, read and written as Java 17 does.

DJL Serving hands `serving.properties` to java.util.Properties, so this is the only reading that counts: no inline
comments, trailing blanks belong to the value, a backslash is an escape, the last duplicate wins. The reader follows
the rules of Properties.load(Reader) in the Java SE 17 API documentation; tests compare it with a real `java`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BLANKS = " \t\f"
_NAMED = {"t": "\t", "r": "\r", "n": "\n", "f": "\f"}
_NAMES = {char: name for name, char in _NAMED.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyLine:
    """One key and value as Java reads them. `line` (from 1) is where the logical line starts, `source` its text with
    continuations joined but escapes not yet decoded."""

    key: str
    value: str
    line: int
    source: str


class PropertiesSyntaxError(ValueError):
    """Text that java.util.Properties refuses, and the number of its line: a malformed \\uXXXX escape."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line


def parse_lines(text: str) -> tuple[PropertyLine, ...]:
    """Every key and value in file order, duplicates included. Raises PropertiesSyntaxError."""
    entries = []
    for line, source in _logical_lines(text):
        key_end, value_start = _split(source)
        key = _decode(source[:key_end], line)
        value = _decode(source[value_start:], line)
        entries.append(PropertyLine(key=key, value=value, line=line, source=source))
    return tuple(entries)


def parse_properties(text: str) -> dict[str, str]:
    """Key -> value; of duplicates the last wins. Raises PropertiesSyntaxError."""
    return {entry.key: entry.value for entry in parse_lines(text)}


def read_properties(path: Path) -> dict[str, str]:
    """The file's keys and values, bytes taken as ISO 8859-1 as Properties.load(InputStream) takes them.

    Raises OSError and PropertiesSyntaxError.
    """
    return parse_properties(path.read_bytes().decode("latin-1"))


def format_properties(values: Mapping[str, str], comment: str = "") -> str:
    """Text that Java reads back as exactly `values`; pure ASCII, one key a line, in the given order.

    Only what must be escaped is escaped. A value's trailing blanks are written as \\u0020 so that they can be seen.
    """
    lines = [f"# {_ascii_comment(part)}" for part in comment.splitlines()]
    lines += [f"{_escape_key(key)}={_escape_value(value)}" for key, value in values.items()]
    return "".join(line + "\n" for line in lines)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(first line number, text) of each logical line, comments and blank lines left out.

    A backslash before the line's end joins the next line, whose leading blanks vanish; what follows may even be a
    comment when nothing stood before the backslash, exactly as in Java.
    """
    joined, start, lone_at, number = "", 0, 0, 0
    is_continuation = False
    for number, natural in enumerate(_natural_lines(text), start=1):
        line = natural.lstrip(BLANKS)
        if not is_continuation and not line:
            continue
        if not joined and line[:1] in ("#", "!"):
            is_continuation = False
            continue
        if not joined:
            start = number
            lone_at = number if line == "\\" else lone_at
        is_continuation = _ends_with_open_backslash(line)
        joined += line[:-1] if is_continuation else line
        if not is_continuation:
            if joined:
                yield start, joined
            joined = ""
    # Java 17 reads a last line of one backslash as an empty key, but not when '\r\n' follows it.
    is_last = lone_at == number or (lone_at == number - 1 and text.endswith(("\\\n", "\\\r")))
    if joined or (lone_at and is_last):
        yield start, joined


def _natural_lines(text: str) -> list[str]:
    """Lines split at \\n, \\r and \\r\\n only (str.splitlines also splits at \\f and others, which Java does not)."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _ends_with_open_backslash(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _split(source: str) -> tuple[int, int]:
    """(end of the key, start of the value): the key ends at the first '=', ':' or blank that is not escaped."""
    at, is_escaped = 0, False
    while at < len(source):
        char = source[at]
        if not is_escaped and (char in "=:" or char in BLANKS):
            break
        is_escaped = char == "\\" and not is_escaped
        at += 1
    key_end = at
    while at < len(source) and source[at] in BLANKS:
        at += 1
    if at < len(source) and source[at] in "=:":
        at += 1
        while at < len(source) and source[at] in BLANKS:
            at += 1
    return key_end, at


def _decode(raw: str, line: int) -> str:
    if "\\" not in raw:
        return raw
    out, at = [], 0
    while at < len(raw):
        char = raw[at]
        at += 1
        if char != "\\":
            out.append(char)
            continue
        escaped = raw[at : at + 1]
        at += 1
        if escaped == "u":
            out.append(_unicode_escape(raw[at : at + 4], line))
            at += 4
        else:
            out.append(_NAMED.get(escaped, escaped))
    # Java strings are UTF-16: two escaped surrogates are one character here.
    return "".join(out).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _unicode_escape(digits: str, line: int) -> str:
    if len(digits) != 4 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise PropertiesSyntaxError(
            line,
            f"malformed escape '\\u{digits}': expected \\u and four hexadecimal digits; "
            "write a literal backslash as \\\\",
        )
    return chr(int(digits, 16))


def _escape_key(key: str) -> str:
    return "".join("\\" + char if char in " =:#!" else _escape_char(char) for char in key)


def _escape_value(value: str) -> str:
    body = value.rstrip(" ")
    escaped = "".join(_escape_char(char) for char in body)
    if escaped.startswith(" "):
        escaped = "\\" + escaped
    return escaped + "\\u0020" * (len(value) - len(body))


def _escape_char(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char in _NAMES:
        return "\\" + _NAMES[char]
    if " " <= char <= "~":
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex().upper()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _ascii_comment(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
