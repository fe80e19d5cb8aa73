"""How much launches differ: pooled per engine, with the runs it is known from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.records import Candidate, Metric, Trial, TrialSummary
from harness.tune.spreads import Squares, margin_frac, spread_of, squares

P50 = "latency_p50_ms"
OF_ONE_LAUNCH = 0.04 * math.sqrt(2)
"""Two launches at +-4 % around their mean."""


def launch(number: int, value: float, *, engine: str = "one", workers: int = 1, repetition: int = 0) -> Trial:
    metric = Metric(value=value, unit="ms", estimator="t", n=400)
    return Trial(
        trial_id=f"t{number}",
        number=number,
        candidate=Candidate(block=0, engine=engine, workers=workers),
        outcome="ok",
        repetition=repetition,
        summary=TrialSummary(metrics={P50: metric}),
    )


def launches(spread: float, engine: str = "one") -> list[Trial]:
    """Two candidates of the engine, each launched twice, `spread` to either side of their mean."""
    values = (10 * math.exp(-spread), 10 * math.exp(spread))
    return [launch(n, value, engine=engine, workers=n) for n in (1, 2) for value in values]


def test_the_margin_is_twice_the_known_spread_and_never_below_three_percent() -> None:
    trials = [*launches(0.04), *launches(0.001, "other")]
    one, other, unknown = (spread_of(engine, trials, P50, {}) for engine in ("one", "other", "third"))
    assert margin_frac(one, one) == pytest.approx(2 * math.sqrt(2) * OF_ONE_LAUNCH)
    assert margin_frac(other, other) == 0.03
    assert margin_frac(one, other) == pytest.approx(2 * OF_ONE_LAUNCH, abs=1e-3)
    assert margin_frac(unknown, unknown) == pytest.approx(0.10)
    assert margin_frac(one, one, launches=4) == pytest.approx(2 * math.sqrt(1.25) * OF_ONE_LAUNCH)


def test_a_spread_states_what_it_is_known_from() -> None:
    twice, before = launches(0.04), {"one": Squares(total=4 * OF_ONE_LAUNCH**2, freedom=4, runs=2)}
    texts = [spread_of("one", *about).text for about in ((twice, P50, {}), ([], P50, before), (twice, P50, before))]
    assert texts == [
        "two launches of one differ by 8 % (this run, 2 degrees of freedom)",
        "two launches of one differ by 8 % (2 earlier runs, 4 degrees of freedom)",
        "two launches of one differ by 8 % (this run and 2 earlier runs, 6 degrees of freedom)",
    ]
    one_pair = spread_of("one", twice[:2], P50, {"one": Squares(total=1.0, freedom=0, runs=1)})
    assert one_pair.text == "two launches of one differ by 5 % (assumed: too few launches were repeated)"


def test_failures_and_trials_that_ended_early_are_no_launches() -> None:
    one, other = launches(0.04)[:2]
    assert squares([one, replace(other, outcome="ended_early"), replace(other, outcome="crashed")], P50) == {
        "one": Squares()
    }


def test_what_made_a_finalist_says_nothing_once_it_was_repeated_twice() -> None:
    lucky = [launch(1, 5.0), launch(2, 10.0, repetition=1)]
    assert squares(lucky, P50)["one"].freedom == 1
    assert squares([*lucky, launch(3, 10.0, repetition=2)], P50)["one"] == Squares(total=0.0, freedom=1)
