"""Simulated gates with a known truth: how often a change is called where there is none, and missed where there is one.

The bounds are exact (Clopper & Pearson, 95 %): the tests assert what is proven about the rates, not the rates seen.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from harness.gate import sides as sides_module
from harness.gate import verdict as verdict_module
from harness.gate.compare import compare
from harness.gate.rules import Rules
from harness.gate.verdict import judge
from harness.trial.side_by_side import LOOKS
from tests.harness.gate.simulated import Replay, World, lower_bound, sides, upper_bound

STATED_LAUNCHES = 16
STATED_REQUESTS = 1000
"""The n at which the README states the power: launches of each side, requests of each launch; launches 1 % apart."""
NO_BUDGET = Rules.model_validate(
    {
        "metrics": {
            "latency_p50_ms": {"max_increase": 0.0},
            "latency_p99_ms": {"max_increase": 0.0},
            "throughput_rps": {"max_decrease": 0.0},
            "error_frac": {"max_increase": 0.0},
        }
    }
)
"""Without budgets every worsening counts, and the level is met as closely as it ever will be."""


def gates(
    monkeypatch: pytest.MonkeyPatch, world: World, count: int, launches: int, *, worse: float = 0.0,
    rules: Rules | None = None, is_paired: bool = True, share: float = 1.0,
) -> Counter[str]:  # fmt: skip
    """Overall verdicts of `count` simulated gates, and 'regressed <metric>' counts; how much more data would settle a
    gate is left out, half of the time and no part of its verdict."""
    monkeypatch.setattr(verdict_module, "factor_to_settle", lambda *_: None)
    rules = rules or Rules()
    replay = Replay(world.simulate(np.random.default_rng(20), count, launches, worse), world.requests)
    monkeypatch.setattr(sides_module, "launches", replay)
    measured = sides(launches, is_paired=is_paired)
    counted: Counter[str] = Counter()
    for replay.gate in range(count):
        judged = judge(compare(measured, rules), rules, share)
        verdicts = {each.verdict for each in judged}
        counted[next(word for word in ("regressed", "cannot tell", "pass") if word in verdicts)] += 1
        counted.update(f"regressed {each.comparison.metric}" for each in judged if each.verdict == "regressed")
    return counted


@pytest.mark.parametrize("is_paired", [True, False])
def test_false_alarms_stay_under_one_percent_even_without_budgets(
    monkeypatch: pytest.MonkeyPatch, is_paired: bool
) -> None:
    counted = gates(monkeypatch, World(launch_sd=0.02, requests=100), 1500, 5, rules=NO_BUDGET, is_paired=is_paired)
    assert upper_bound(counted["regressed"], 1500) <= 0.015, counted
    assert binomially_consistent(counted["regressed"], 1500, 0.01), counted


def binomially_consistent(seen: int, n: int, at_most: float) -> bool:
    """Whether `seen` of `n` is no evidence (99 %) against a rate of `at_most`."""
    return lower_bound(seen, n, 0.01) <= at_most


def test_false_alarms_with_the_default_budgets_are_proven_under_one_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = gates(monkeypatch, World(launch_sd=0.02, requests=100, drift_sd=0.01), 1500, 5)
    assert upper_bound(counted["regressed"], 1500) <= 0.01, counted


def test_pairs_cancel_a_drift_that_separate_launches_would_take_for_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    drifting = World(launch_sd=0.005, requests=100, drift_sd=0.05)
    paired = gates(monkeypatch, drifting, 600, 8, rules=NO_BUDGET)
    assert binomially_consistent(paired["regressed"], 600, 0.01), paired


def test_three_looks_together_keep_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_module, "factor_to_settle", lambda *_: None)
    world, count = World(launch_sd=0.02, requests=100), 400
    rounds = LOOKS[-1][0]
    values = world.simulate(np.random.default_rng(5), count, rounds)
    alarmed: set[int] = set()
    for look, share in LOOKS:
        replay = Replay(values, world.requests)
        monkeypatch.setattr(sides_module, "launches", replay)
        measured = sides(look, is_paired=True)
        for replay.gate in range(count):
            judged = judge(compare(measured, NO_BUDGET), NO_BUDGET, share)
            if any(each.verdict == "regressed" for each in judged):
                alarmed.add(replay.gate)
    assert sum(share for _, share in LOOKS) == pytest.approx(1.0)
    assert binomially_consistent(len(alarmed), count, 0.01), len(alarmed)


def test_five_percent_of_p50_is_found_at_the_stated_n(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(launch_sd=0.01, requests=STATED_REQUESTS)
    counted = gates(monkeypatch, world, 250, STATED_LAUNCHES, worse=0.05)
    assert lower_bound(counted["regressed"], 250) >= 0.9, counted
    assert counted["pass"] == 0


def test_ten_percent_of_p99_is_found_at_the_stated_n(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(launch_sd=0.01, requests=STATED_REQUESTS)
    counted = gates(monkeypatch, world, 250, STATED_LAUNCHES, worse=0.10)
    assert lower_bound(counted["regressed latency_p99_ms"], 250) >= 0.9, counted
    assert counted["regressed latency_p50_ms"] == 250


def test_an_unchanged_engine_mostly_passes_at_the_stated_n(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = gates(monkeypatch, World(launch_sd=0.01, requests=STATED_REQUESTS), 250, STATED_LAUNCHES)
    assert lower_bound(counted["pass"], 250) >= 0.75, counted
    assert counted["regressed"] == 0


def test_a_change_beyond_its_budget_hardly_ever_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {name: {"ignore": True} for name in Rules().metrics if name != "latency_p50_ms"}
    rules = Rules.model_validate({"metrics": {**only, "latency_p50_ms": {"max_increase_frac": 0.02}}})
    counted = gates(monkeypatch, World(launch_sd=0.01, requests=200), 1000, 6, worse=0.0201, rules=rules)
    assert binomially_consistent(counted["pass"], 1000, 0.05), counted
    assert counted["pass"] > 10  # the level is used, not wasted


def test_a_few_launches_never_pass_what_they_cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = gates(monkeypatch, World(requests=400), 100, 1, is_paired=False)
    assert counted == Counter({"cannot tell": 100})
