"""YAML text to values and back: the scalars of YAML 1.2, and texts that are refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.scenario.yaml_nodes import MOST_VALUES, parse, write

SCALARS = [
    ("no", "no"),
    ("on", "on"),
    ("Yes", "Yes"),
    ("2020-01-01", "2020-01-01"),
    ("1:30", "1:30"),
    ("1_000", "1_000"),
    ("0b1", "0b1"),
    ("<<", "<<"),
    ("1e3", 1000.0),
    (".5", 0.5),
    ("1.", 1.0),
    ("-.inf", float("-inf")),
    ("017", 17),
    ("+1", 1),
    ("0o17", 15),
    ("0x1F", 31),
    ("TRUE", True),
    ("~", None),
    ("Null", None),
    ("", None),
    ("'1'", "1"),
    ('"true"', "true"),
    ("9" * 5000, float("inf")),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text[:12] for text, _ in SCALARS])
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    document = parse(f"key: {text}")
    assert not document.problems
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)


REFUSED = [
    ("a: *nope", 1, "not valid YAML: found undefined alias 'nope'"),
    ("a: 1\n---\nb: 2", 2, "not valid YAML: expected a single document in the stream but found another document"),
    ("a: 1\nb: x\x07y", 2, "not valid YAML: the character U+0007, which YAML does not allow; remove it"),
    ("a: 1\n\tb: 2", 2, "not valid YAML: while scanning for the next token found character '\\t'"),
    ("a: &x [1, *x]", 1, "expected a value, got an alias that contains itself"),
    ("? [a]\n: b", 1, "expected a word as key, got a list or mapping"),
    ("a: 1\nb: !foo 1", 2, "expected a plain value, got the tag !foo; remove it"),
    ("a: !local {b: 1}", 1, "expected a plain value, got the tag !local; remove it"),
    ("a: !!python/tuple [1]", 1, "expected a plain value, got the tag tag:yaml.org,2002:python/tuple; remove it"),
    ("a: !!binary eA==", 1, "expected a plain value, got the tag tag:yaml.org,2002:binary; remove it"),
    ("a: &x {b: 1}\nc: {<<: *x, d: 2}", 2, "expected keys, got a merge (<<), which is not read; write the keys out"),
]


@pytest.mark.parametrize(
    ("text", "value"),
    [("!!str 5", "5"), ("!!str", ""), ("!!int '5'", 5), ("!!bool 'true'", True), ("!!seq [1]", [1]), ("|\n  5", "5")],
)
def test_a_tag_says_what_a_value_is(text: str, value: object) -> None:
    document = parse(f"key: {text}")
    assert not document.problems
    assert document.value == {"key": value}
    assert parse("'<<': 1\n!!str 2: 3").value == {"<<": 1, "2": 3}


@pytest.mark.parametrize(("text", "line", "sentence"), REFUSED, ids=[each[2][:40] for each in REFUSED])
def test_a_text_that_is_refused_names_the_line(text: str, line: int, sentence: str) -> None:
    (problem,) = parse(text).problems
    assert problem.line == line
    assert problem.text.startswith(sentence)


def test_an_alias_is_its_value_again_and_the_lines_are_those_of_the_anchor() -> None:
    document = parse("a: &x\n  b: 1\nc: *x\n")
    assert document.value == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.lines[("c", "b")] == 2


def test_aliases_of_aliases_do_not_fill_the_memory() -> None:
    levels = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 12)]
    document = parse("\n".join(["l0: &l0 x", *levels]))
    assert [problem.text for problem in document.problems] == [
        f"expected at most {MOST_VALUES:,} values, got more; write fewer aliases (*name)"
    ]


_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_WRITTEN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | _TEXT
    | st.sampled_from([s for s, _ in SCALARS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=12,
)


@given(_WRITTEN)
@example("-\x85O")
@example({"a\u2028b": ["\u2029"]})
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    document = parse(write(value))
    assert not document.problems
    assert document.value == value
    assert str(document.value) == str(value), "1 is not 1.0, True is not 1"


def test_a_list_that_stands_twice_is_written_twice() -> None:
    same = [1, 2]
    assert write({"a": same, "b": same}) == "a: [1, 2]\nb: [1, 2]\n"
