"""The estimator of `make bench-scrape` finds a programmed slowdown, and bounds it as often as it states."""

from __future__ import annotations

import numpy as np
import pytest

from harness.records import RequestRecord
from tests.bench.load.bench_scrape import Pair, bound, slowdowns
from tests.harness.measure.records import request

NS = 1_000_000_000
PERIOD_S = 5.0


def _programmed(slowdown: float, seed: int, pairs: int = 60) -> tuple[list[RequestRecord], list[Pair]]:
    """About 500 tokens in each period of 5 s, `slowdown` fewer in those with scraping."""
    chance = np.random.default_rng(seed)
    times, made = list[np.ndarray[tuple[int], np.dtype[np.int64]]](), list[Pair]()
    for number in range(pairs):
        begins = [round(2 * number * PERIOD_S * NS), round((2 * number + 1) * PERIOD_S * NS)]
        chance.shuffle(begins)
        made.append(Pair(begins[0], begins[1]))
        for begin_ns, share in zip(begins, (1 - slowdown, 1.0), strict=True):
            count = round(500 * share * chance.normal(1.0, 0.02))
            times.append(begin_ns + chance.integers(0, round(PERIOD_S * NS), count))
    return [request(seq=0, intended_ms=0.0, latency_ms=1.0, token_ns=tuple(np.concatenate(times).tolist()))], made


@pytest.mark.parametrize("slowdown", [0.0, 0.03])
def test_a_programmed_slowdown_is_found_and_bounded(slowdown: float) -> None:
    below = 0
    for seed in range(40):
        records, pairs = _programmed(slowdown, seed)
        mean, upper = bound(slowdowns(records, pairs, (0, 2 * len(pairs) * 5 * NS), PERIOD_S))
        assert mean == pytest.approx(slowdown, abs=0.015)
        below += upper < slowdown
    assert below <= 5  # 2 of 40 expected, more than 5 in 1.4 %


def test_a_period_beyond_the_window_is_not_counted() -> None:
    records, pairs = _programmed(0.0, 0, pairs=4)
    assert len(slowdowns(records, pairs, (0, 39 * NS), PERIOD_S)) == 3
