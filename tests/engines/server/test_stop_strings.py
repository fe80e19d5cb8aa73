"""A stop string ends a text before it, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.server.stop_strings import StopStrings

LETTERS = st.text(alphabet="ab", max_size=12)


@given(pieces=st.lists(LETTERS, max_size=8), stops=st.lists(LETTERS.filter(bool), min_size=1, max_size=3))
def test_what_is_let_out_is_the_text_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    watch, shown, read = StopStrings(stops), "", ""
    for piece in pieces:
        shown += watch.take(piece)
        read += piece
        assert read.startswith(shown)
        assert not any(stop in shown for stop in stops)
        if watch.is_found:
            break
    found = [read.find(stop) for stop in stops if stop in read]
    assert watch.is_found == bool(found)
    if found:
        assert shown == read[: min(found)]
    else:
        held = read.removeprefix(shown)
        assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [(["a\n", "\nb"], ["a", ""]), (["a\n", "b"], ["a", "\nb"]), (["a\n\nb"], ["a"]), (["\n"], [""])],
)
def test_a_beginning_is_held_back_until_it_is_known(pieces: list[str], shown: list[str]) -> None:
    watch = StopStrings(["\n\n"])
    assert [watch.take(piece) for piece in pieces] == shown
