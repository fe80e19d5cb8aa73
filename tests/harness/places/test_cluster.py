"""Names of nodes and of their parts, and what a trial takes of a machine."""

from __future__ import annotations

import random

import pytest

from harness.places.cluster import parts_of, share_of, short


@pytest.mark.parametrize(
    ("node", "shown"),
    [
        ("0123456789abcdef" * 3, "01234567"),
        ("0123456789abcdef" * 3 + "#2/16", "01234567#2/16"),
        ("tcp://192.168.100.100:45678#1/16", "tcp://192.168.100.100:45678#1/16"),
        ("tls://[fe80::1234:5678:9abc:def0]:45678", "tls://[fe80::1234:5678:9abc:def0]:45678"),
        ("n1", "n1"),
    ],
)
def test_of_a_hash_the_beginning_is_shown_and_of_a_part_which_one_it_is(node: str, shown: str) -> None:
    assert short(node) == shown


@pytest.mark.parametrize("count", range(1, 65))
def test_as_many_parts_as_there_are_fit_by_dasks_floats_and_no_more(count: int) -> None:
    """Dask subtracts what a task takes from what is left, adds it afterwards, and never rounds."""
    share, whole = share_of(parts_of(["n"], count)[-1]), share_of("n")
    assert round(share * 10_000) / 10_000 == share, "as finely as Ray counts"
    rng, left, taken = random.Random(count), 1.0, 0
    for _ in range(10_000):
        if taken == count or (taken and rng.random() < 0.5):
            left, taken = left + share, taken - 1
            continue
        assert left >= share
        left, taken = left - share, taken + 1
    for _ in range(count - taken):
        assert left >= share
        left -= share
    assert left < share, "another part"
    for _ in range(count):
        assert left < whole, "the whole machine beside a part"
        left += share
    assert left >= whole
