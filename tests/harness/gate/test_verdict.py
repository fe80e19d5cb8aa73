"""Evidence, Holm's levels and budgets, against numbers worked out by hand or published."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.gate.compare import Comparison
from harness.gate.evidence import Evidence, Launches, PairedShares, Shares, factor_to_settle
from harness.gate.rules import Rules
from harness.gate.verdict import holm_levels, judge


def launches(estimate: float, spread: float = 0.01, n: int = 8, df: float = 14) -> Launches:
    return Launches(
        estimate=estimate, spread=spread, df=df, n_baseline=n, n_candidate=n, is_paired=False, how="simulated"
    )


def comparison(evidence: Evidence | None, limit: float = math.log(1.02), problem: str = "") -> Comparison:
    return Comparison(
        candidate_id="c", label="fake", metric="latency_p50_ms", unit="ms", scale="log", is_larger_better=False,
        baseline=10.0, candidate=10.0, launches_baseline=8, launches_candidate=8, requests=1600, limit=limit,
        budget="+2 %", evidence=evidence, problem=problem,
    )  # fmt: skip


def test_holm_steps_down_and_stops_at_the_first_that_is_not_rejected() -> None:
    assert holm_levels([0.001, 0.5, 0.004], 0.01) == pytest.approx([0.01 / 3, 0.01, 0.005])
    assert holm_levels([0.004, 0.5, 0.004], 0.01) == pytest.approx([0.01 / 3] * 3)
    assert holm_levels([None, 0.5], 0.01) == pytest.approx([0.01, 0.01])


def test_holm_rejects_exactly_what_the_step_down_procedure_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        p_values = list(10 ** rng.uniform(-4, 0, size=6))
        levels = holm_levels(p_values, 0.05)
        rejected, left = set(), sorted(range(6), key=lambda at: p_values[at])
        while left and p_values[left[0]] <= 0.05 / len(left):
            rejected.add(left.pop(0))
        assert {at for at in range(6) if p_values[at] <= levels[at]} == rejected


@pytest.mark.parametrize(
    ("estimate", "verdict"), [(0.0, "pass"), (0.012, "cannot tell"), (0.03, "cannot tell"), (0.06, "regressed")]
)
def test_the_interval_inside_across_and_beyond_the_budget(estimate: float, verdict: str) -> None:
    (found,) = judge([comparison(launches(estimate))], Rules())
    assert found.verdict == verdict
    assert found.low is not None
    assert found.high is not None
    limit = 0.02
    assert {"pass": found.high <= limit, "regressed": found.low > limit}.get(verdict, found.low <= limit < found.high)


def test_the_same_evidence_needs_more_in_a_larger_family_and_in_an_early_look() -> None:
    evidence = launches(0.036)
    alone = judge([comparison(evidence)], Rules())[0]
    crowd = judge([comparison(evidence), *[comparison(launches(0.0))] * 9], Rules())[0]
    early = judge([comparison(evidence)], Rules(), share=0.1)[0]
    assert (alone.verdict, crowd.verdict, early.verdict) == ("regressed", "cannot tell", "cannot tell")


def test_without_evidence_the_problem_is_the_reason() -> None:
    (found,) = judge([comparison(None, problem="the candidate has no latency_p50_ms")], Rules())
    assert (found.verdict, found.reason) == ("cannot tell", "the candidate has no latency_p50_ms")


def test_the_p_value_is_the_level_at_which_the_lower_bound_meets_the_limit() -> None:
    for evidence in (
        launches(0.04),
        Shares(bad_baseline=3, n_baseline=500, bad_candidate=21, n_candidate=500, how=""),
        PairedShares(net_worse=9, differing=11, n=200, is_identical=False, how=""),
    ):
        p = evidence.p_above(0.01)
        assert 0 < p < 0.5
        assert evidence.lower(p) == pytest.approx(0.01, abs=1e-6)


def test_newcombes_published_example() -> None:
    """Newcombe 1998, table II (a): 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    shares = Shares(bad_baseline=48, n_baseline=80, bad_candidate=56, n_candidate=70, how="")
    assert shares.lower(0.025) == pytest.approx(0.0524, abs=5e-5)
    assert shares.upper(0.025) == pytest.approx(0.3339, abs=5e-5)


def test_paired_shares_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    became_wrong, became_right, n = 0.06, 0.03, 200
    counts = rng.multinomial(n, [became_wrong, became_right, 1 - became_wrong - became_right], size=2000)
    covered = 0
    for wrong, right, _ in counts:
        evidence = PairedShares(net_worse=wrong - right, differing=wrong + right, n=n, is_identical=False, how="")
        covered += evidence.lower(0.025) <= became_wrong - became_right <= evidence.upper(0.025)
    assert covered / 2000 >= 0.94


def test_how_many_more_is_enough_four_times_in_five() -> None:
    """The promise is tested by keeping it: simulate that many launches and see whether they settle it."""
    truth, spread, limit = 0.0, 0.02, math.log(1.02)
    seen = Launches(estimate=truth, spread=spread, df=4, n_baseline=3, n_candidate=3, is_paired=False, how="")
    factor = factor_to_settle(seen, limit, 0.05, 0.01)
    assert factor is not None
    n = math.ceil(3 * factor)
    rng = np.random.default_rng(2)
    settled = 0
    for _ in range(400):
        before, now = rng.normal(0, spread, n), rng.normal(0, spread, n)
        pooled = math.sqrt((before.var(ddof=1) + now.var(ddof=1)) / 2)
        bigger = Launches(
            estimate=float(now.mean() - before.mean()), spread=pooled, df=2 * n - 2, n_baseline=n, n_candidate=n,
            is_paired=False, how="",
        )  # fmt: skip
        settled += bigger.upper(0.05) <= limit
    assert settled / 400 >= 0.7


def test_more_data_cannot_settle_a_change_at_the_limit() -> None:
    assert factor_to_settle(launches(0.02), 0.02, 0.05, 0.01) is None
