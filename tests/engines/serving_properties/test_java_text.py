"""java.util.Properties reading and writing, against a table of nasty cases and against a real Java."""

from __future__ import annotations

import base64
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.serving_properties.java_text import (
    PropertiesSyntaxError,
    format_properties,
    parse_lines,
    parse_properties,
    read_properties,
)

NASTY: list[tuple[str, dict[str, str]]] = [
    ("", {}),
    ("a=b", {"a": "b"}),
    ("a:b", {"a": "b"}),
    ("a b", {"a": "b"}),
    ("a\tb", {"a": "b"}),
    ("a\fb", {"a": "b"}),
    ("a", {"a": ""}),
    ("a=", {"a": ""}),
    ("  a = b", {"a": "b"}),
    ("a == b", {"a": "= b"}),
    ("a : = b", {"a": "= b"}),
    ("a=b ", {"a": "b "}),
    ("a=b\t", {"a": "b\t"}),
    ("a=b # no comment", {"a": "b # no comment"}),
    ("#a=b\n!c=d", {}),
    ("  # a=b", {}),
    ("a=1\na=2", {"a": "2"}),
    ("a=b\\\n  c", {"a": "bc"}),
    ("a=b\\\r\n  c", {"a": "bc"}),
    ("a=b\\\rc=d", {"a": "bc=d"}),
    ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
    ("a=b\\\\\\\nc=d", {"a": "b\\c=d"}),
    ("a=b\\\n\nc=d", {"a": "b", "c": "d"}),
    ("a=b\\\n#c", {"a": "b#c"}),
    ("\\\n#c=d\ne=f", {"e": "f"}),
    ("# c\\\nd=e", {"d": "e"}),
    ("a=b\\", {"a": "b"}),
    ("a\\=b=c", {"a=b": "c"}),
    ("a\\:b=c", {"a:b": "c"}),
    ("a\\ b=c", {"a b": "c"}),
    ("\\#a=b", {"#a": "b"}),
    ("a=\\ b", {"a": " b"}),
    ("a=\\u0041\\u00e9", {"a": "A\u00e9"}),
    ("a=\\ud83d\\ude00", {"a": "\U0001f600"}),
    ("a=\\t\\n\\r\\f\\q\\z", {"a": "\t\n\r\fqz"}),
    ("p=C:\\temp\\new", {"p": "C:\temp\new"}),
    ("a=b\x0bc\x85d\u2028e", {"a": "b\x0bc\x85d\u2028e"}),
    ("option.rolling_batch=lmi - dist", {"option.rolling_batch": "lmi - dist"}),
    ("=b", {"": "b"}),
    ("a\n\n\n  \nb=c", {"a": "", "b": "c"}),
    ("\ufeffa=b", {"\ufeffa": "b"}),
]


@pytest.mark.parametrize(("text", "values"), NASTY)
def test_nasty_text_is_read_as_the_specification_says(text: str, values: dict[str, str]) -> None:
    assert parse_properties(text) == values


@pytest.mark.parametrize("text", ["a=\\u00g1", "a=\\u12", "\\u=b", "ok=1\na=\\uD8_0"])
def test_malformed_unicode_escape_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(PropertiesSyntaxError, match=r"line \d: malformed escape"):
        parse_properties(text)


def test_lines_keep_duplicates_and_where_they_start() -> None:
    entries = parse_lines("# head\na=1\\\n 2\n\na=3\n")
    assert [(entry.key, entry.value, entry.line) for entry in entries] == [("a", "12", 2), ("a", "3", 5)]


def test_file_bytes_are_read_as_latin_1_as_java_reads_a_stream(tmp_path: Path) -> None:
    (tmp_path / "x.properties").write_bytes("a=é".encode())
    assert read_properties(tmp_path / "x.properties") == {"a": "Ã©"}


@given(st.dictionaries(st.text(), st.text()))
def test_what_is_written_is_read_back(values: dict[str, str]) -> None:
    text = format_properties(values, comment="written by a test\nsecond line \u00e9")
    assert text.isascii()
    assert parse_properties(text) == values


def test_trailing_blanks_are_written_visibly() -> None:
    assert format_properties({"a": " b  "}) == "a=\\ b\\u0020\\u0020\n"


def _java_reads(texts: list[str]) -> list[dict[str, str] | None]:
    java = shutil.which("java")
    if java is None:
        pytest.skip("no java here: the comparison with java.util.Properties needs a Java 11 or newer")
    oracle = Path(__file__).with_name("PropertiesOracle.java")
    lines = "".join(base64.b64encode(text.encode("utf-16-be", "surrogatepass")).decode() + "\n" for text in texts)
    done = subprocess.run([java, str(oracle)], input=lines, capture_output=True, text=True, timeout=120, check=True)

    def unpack(answer: str) -> dict[str, str] | None:
        if answer == "E":
            return None
        pairs = [pair.split(":") for pair in answer[1:].split(",") if pair]
        return {
            base64.b64decode(key).decode("utf-16-be", "surrogatepass"): base64.b64decode(value).decode(
                "utf-16-be", "surrogatepass"
            )
            for key, value in pairs
        }

    return [unpack(answer) for answer in done.stdout.splitlines()]


def _we_read(text: str) -> dict[str, str] | None:
    try:
        return parse_properties(text)
    except PropertiesSyntaxError:
        return None


@pytest.mark.heavy
def test_a_real_java_reads_the_same() -> None:
    rng = random.Random(7)
    alphabet = "ab \t\f\n\r=:#!\\\\\\\\u0041"
    texts = [text for text, _ in NASTY]
    texts += ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 24))) for _ in range(4000)]
    texts += [format_properties({"".join(rng.choices(alphabet + "é😀", k=6)): "".join(rng.choices(alphabet, k=8))})
              for _ in range(500)]  # fmt: skip
    for text, java_values in zip(texts, _java_reads(texts), strict=True):
        assert _we_read(text) == java_values, repr(text)
