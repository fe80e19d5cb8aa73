"""The search for the largest rate: right within its precision, in few probes, whatever the true capacity is."""

from __future__ import annotations

import random

import pytest

from harness.load.schedule.max_rate import RateSearch, probes_needed


def _search(
    low: float, high: float, capacity: float, probes: int = 100, precision: float = 0.05
) -> tuple[RateSearch, int]:
    search, count = RateSearch(low, high, probes, precision), 0
    while (rate := search.next_rps()) is not None:
        search.observe(rate, rate <= capacity)
        count += 1
    return search, count


def test_every_capacity_from_1_to_1000_is_found_within_five_percent_in_twelve_probes() -> None:
    rng = random.Random(7)
    for _ in range(500):
        capacity = 10 ** rng.uniform(0, 3)
        search, count = _search(1.0, 1000.0, capacity)
        assert count <= probes_needed(1.0, 1000.0, 0.05) <= 12
        assert search.held_rps <= capacity <= search.held_rps * 1.05 or capacity < 1.0


def test_the_ends_are_answers_too() -> None:
    top, count = _search(10.0, 100.0, 1e9)
    assert (top.held_rps, top.broken_rps) == (100.0, None)
    assert count <= 5
    bottom, count = _search(10.0, 100.0, 1.0)
    assert (bottom.held_rps, bottom.broken_rps, count) == (0.0, 10.0, 1)


def test_the_probes_are_a_budget() -> None:
    search, count = _search(1.0, 1000.0, 300.0, probes=6)
    assert count == 6
    assert search.broken_rps is not None
    assert search.held_rps <= 300.0 < search.broken_rps


def test_no_search_probes_more_than_the_one_whose_probes_all_hold() -> None:
    rng = random.Random(3)
    for _ in range(200):
        search, capacity, most = RateSearch(2.0, 90.0, 12, 0.05), rng.uniform(1, 120), list[float]()
        while (rate := search.next_rps()) is not None:
            assert rate <= search.most_rps
            most.append(search.most_rps)
            search.observe(rate, rate <= capacity)
        every, rising = RateSearch(2.0, 90.0, 12, 0.05), list[float]()
        while (rate := every.next_rps()) is not None:
            rising.append(rate)
            every.observe(rate, is_held=True)
        assert most[: len(rising)] == rising[: len(most)]
        assert set(most[len(rising) :]) <= {90.0}


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_slo_still_ends_with_a_bracket(seed: int) -> None:
    rng = random.Random(seed)
    search = RateSearch(5.0, 500.0, 30, 0.05)
    while (rate := search.next_rps()) is not None:
        search.observe(rate, rate * rng.uniform(0.9, 1.1) <= 120)
    assert search.broken_rps is None or search.held_rps < search.broken_rps
    assert 90 <= search.held_rps <= 140
