"""The estimator of `make bench-prefix` finds a programmed ratio of TTFT, and its interval covers it."""

from __future__ import annotations

import random

import pytest

from tests.bench.load.bench_prefix import Launch, interval, log_ratio


def _launch(scale: float, chance: random.Random) -> Launch:
    luck = scale * chance.lognormvariate(0, 0.05)  # of the launch
    times = {seq: luck * (100 + seq) * chance.lognormvariate(0, 0.1) for seq in range(20)}
    return Launch(ttft_ms=times, failed=0, by_answers=0, by_counters=0.0)


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_a_programmed_ratio_is_found_and_covered(ratio: float) -> None:
    chance, covered = random.Random(3), 0
    for _ in range(60):
        found, low, high = interval([log_ratio(_launch(ratio, chance), _launch(1.0, chance)) for _ in range(4)])
        assert found == pytest.approx(ratio, rel=0.25)
        covered += low <= ratio <= high
    assert covered >= 52  # 57 of 60 expected


def test_a_single_pair_bounds_nothing_and_none_in_common_is_refused() -> None:
    chance = random.Random(3)
    assert interval([log_ratio(_launch(2.0, chance), _launch(1.0, chance))])[1:] == (0.0, float("inf"))
    with pytest.raises(SystemExit, match="measure longer"):
        log_ratio(Launch(ttft_ms={99: 1.0}, failed=0, by_answers=0, by_counters=None), _launch(1.0, chance))
