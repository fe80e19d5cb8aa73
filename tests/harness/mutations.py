"""Mutations of valid inputs for the fuzz tests: values dropped, retyped, doubled or nested, texts cut and merged.

`DYNO_FUZZ_EXAMPLES` sets the number of examples of each test (200 by default); `DYNO_FUZZ_SHRINK=0` leaves a failing
example as large as it was found.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("DYNO_FUZZ_EXAMPLES", "200"))
PHASES = [phase for phase in Phase if phase != Phase.shrink or os.environ.get("DYNO_FUZZ_SHRINK") != "0"]
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=PHASES,
    report_multiple_bugs=False,
)

PLACE = Path(tempfile.mkdtemp(prefix="dyno-fuzz-"))

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([[], {}, "", "\ud800", 2**31, 10**30, -1, [[]], {"": None}, "error", "stop", "content_filter",
                     float("nan"), float("inf"), [None], {"type": "abort"}, "x" * 5000]),
)  # fmt: skip
EDITS = ("drop", "odd", "duplicate", "nest", "list", "text", "number")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inside for place in places(each, (*path, key)))]


def edited(value: Any, path: tuple[Any, ...], edit: str, odd: Any) -> Any:
    """A copy of `value`, changed at `path`."""
    if path:
        copy = dict(value) if isinstance(value, dict) else list(value)
        if len(path) == 1 and edit in ("drop", "duplicate"):
            if edit == "drop":
                del copy[path[0]]
            elif isinstance(copy, list):
                copy.insert(path[0], copy[path[0]])
            else:
                copy[f"{path[0]}2"] = copy[path[0]]
            return copy
        copy[path[0]] = edited(copy[path[0]], path[1:], edit, odd)
        return copy
    changed = {"odd": odd, "nest": {"inner": value}, "list": [value], "text": json.dumps(value), "number": 7}
    return changed.get(edit, value)


@st.composite
def values(draw: st.DrawFn, seeds: Sequence[Any], most: int = 3) -> Any:
    """One of `seeds` after up to `most` changes."""
    value = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, most))):
        value = edited(value, draw(st.sampled_from(places(value))), draw(st.sampled_from(EDITS)), draw(ODD))
    return value


PATCHES = [
    b"\xef\xbb\xbf",
    b"\0",
    b"\r",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"\t",
    b'"',
    b"\\",
    b"\\u00",
    b"#",
    b": ",
]


@st.composite
def torn(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> bytes:
    """A text of `texts`, perhaps cut at a byte, patched, repeated in part, or merged with another one there."""
    data = draw(texts)
    kind = draw(st.sampled_from(["whole", "whole", "cut", "patch", "again", "merge"]))
    at, until = sorted(draw(st.integers(0, len(data))) for _ in range(2))
    if kind == "cut":
        return data[:at] + data[until:]
    if kind == "patch":
        return data[:at] + draw(st.one_of(st.binary(max_size=4), st.sampled_from(PATCHES))) + data[at:]
    if kind == "again":
        return data[:until] + data[at:]
    return data[:at] + draw(texts)[at:] if kind == "merge" else data


def placed(data: bytes) -> Path:
    """`data` in a file; one test writes it at a time."""
    path = PLACE / "input.txt"
    path.write_bytes(data)
    return path


def check_sentence(message: str, place: Path | str) -> None:
    """A refusal can be printed, is no longer than a screen (the list of all metrics has 1,100 characters), and each of
    its lines begins with its place."""
    message.encode("utf-8")
    assert all(line.startswith(str(place)) and len(line) < 1300 for line in message.splitlines())


def as_cell(value: Any) -> str:
    """A value as a text of one line: whatever is no text is written as JSON."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


@st.composite
def edits(draw: st.DrawFn, value: Any, known: Sequence[tuple[tuple[Any, ...], Any]], most: int = 3) -> Any:
    """`value` with one to `most` values of `known` (path, value) set; a path that is not there is made or skipped."""
    for path, wanted in draw(st.lists(st.sampled_from(known), min_size=1, max_size=most)):
        value = with_value(value, path, wanted)
    return value


def with_value(value: Any, path: tuple[Any, ...], wanted: Any) -> Any:
    """A copy of `value` with `wanted` at `path`; mappings on the way are made."""
    if not path:
        return wanted
    if isinstance(value, list):
        return [with_value(each, path[1:], wanted) if at == path[0] else each for at, each in enumerate(value)]
    inside = dict(value) if isinstance(value, dict) else {}
    return {**inside, path[0]: with_value(inside.get(path[0]), path[1:], wanted)}
