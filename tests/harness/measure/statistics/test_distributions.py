"""Student's t and the score interval against published tables and their own limits."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from harness.measure.statistics.distributions import t_cdf, t_quantile, wilson_interval


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [
        (0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 5, 2.57058), (0.975, 10, 2.22814), (0.975, 30, 2.04227),
        (0.95, 4, 2.13185), (0.99, 7, 2.99795), (0.995, 3, 5.84091), (0.999, 15, 3.73283), (0.9995, 120, 3.37345),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_tables(p: float, df: float, t: float) -> None:
    assert t_quantile(p, df) == pytest.approx(t, rel=2e-6)
    assert t_quantile(1 - p, df) == pytest.approx(-t, rel=2e-6)


def test_one_degree_of_freedom_is_cauchy_and_many_are_normal() -> None:
    for t in (-3.0, -0.2, 0.0, 1.0, 7.0):
        assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)
        assert t_cdf(t, math.inf) == pytest.approx(NormalDist().cdf(t), abs=1e-12)
        assert t_cdf(t, 9e4) == pytest.approx(NormalDist().cdf(t), abs=1e-5)


@pytest.mark.parametrize("df", [1, 1.5, 3, 8, 40, 1000])
@pytest.mark.parametrize("level", [0.4999, 0.2, 1e-3, 1e-6, 1e-9])
def test_the_quantile_inverts_the_distribution_far_into_the_tail(df: float, level: float) -> None:
    assert t_cdf(t_quantile(level, df), df) == pytest.approx(level, rel=1e-4)


def test_wilson_interval_matches_the_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(20, 20)[1] == 1.0
