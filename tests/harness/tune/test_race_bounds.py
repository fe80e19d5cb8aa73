"""Bounds of a tail and of a share of good requests: how often they err on known laws, dependent ones too."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.tune.race_bounds import Floats, of_good, of_ratios, of_tails

LEVEL = 0.05
REQUESTS = 800
WORSE = 0.10


def _waits(rng: np.random.Generator, prompts: Floats, *, bursts: float = 0.0) -> Floats:
    """Lognormal waits; a share of them in stalls of 16 neighbours, each of which takes four times as long."""
    waits = np.exp(prompts + 0.18 * rng.standard_normal(REQUESTS))
    for start in np.flatnonzero(rng.random(REQUESTS) < bursts / 16):
        waits[start : start + 16] *= 4
    return np.asarray(waits)


@pytest.mark.parametrize("q", [0.9, 0.99])
@pytest.mark.parametrize("bursts", [0.0, 0.02, 0.1])
def test_the_bound_of_a_tail_is_above_the_truth_no_more_often_than_the_level(q: float, bursts: float) -> None:
    """In 5 % of 300 pairs, plus two standard errors of that; stalls come to each load by itself."""
    above = 0
    for pair in range(300):
        rng = np.random.default_rng([1, pair])
        prompts = 0.3 * rng.standard_normal(REQUESTS)
        mine, best = (_waits(rng, prompts, bursts=bursts) for _ in range(2))
        above += of_tails((1 + WORSE) * mine, best, q, LEVEL, 8, WORSE) is not None
    assert above / 300 <= LEVEL + 2 * math.sqrt(LEVEL / 300)


def test_the_bound_of_a_tail_is_below_the_truth_and_near_it() -> None:
    rng = np.random.default_rng(3)
    prompts = 0.3 * rng.standard_normal(REQUESTS)
    found = of_tails(2.0 * _waits(rng, prompts), _waits(rng, prompts), 0.9, LEVEL, 8, WORSE)
    assert found is not None
    assert 0.7 < found.at_least_frac < found.worse_frac < 1.2
    assert found.blocks * found.block_requests <= REQUESTS


def _good(rng: np.random.Generator, share: float, batch: int) -> Floats:
    """1 with that share, 0 otherwise; most of it shared by a batch."""
    shared = np.repeat(rng.random(math.ceil(REQUESTS / batch)), batch)[:REQUESTS]
    mixed = np.where(rng.random(REQUESTS) < 0.7, shared, rng.random(REQUESTS))
    return (mixed < share).astype(np.float64)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_share_of_good_requests_is_judged_as_surely(batch: int) -> None:
    """Lower by just the margin: at most 5 % of 300 pairs; by 60 % more, nine in ten."""
    found = {1 + WORSE: 0, (1 + WORSE) * 1.6: 0}
    for pair in range(300):
        rng = np.random.default_rng([2, pair])
        for factor in found:
            mine, best = _good(rng, 0.9 / factor, batch), _good(rng, 0.9, batch)
            found[factor] += of_good(mine, best, LEVEL, 8, WORSE) is not None
    low, high = (count / 300 for count in found.values())
    assert low <= LEVEL
    assert high >= 0.9


def test_nothing_good_at_all_is_surely_worse() -> None:
    found = of_good(np.zeros(REQUESTS), np.ones(REQUESTS), LEVEL, 8, WORSE)
    assert found is not None
    assert found.at_least_frac > 100


def test_few_blocks_bound_nothing() -> None:
    assert of_ratios(np.full(7, 1.0), 8, LEVEL) is None
    assert of_tails(np.full(63, 2.0), np.full(63, 1.0), 0.9, LEVEL, 8, WORSE) is None
