"""Failures make trying their like less likely, and never impossible; on laws that a sampler cannot know."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

import numpy as np
import pytest

from harness.records import Candidate, Trial
from harness.tune.failures import LEAST, chances_to_run
from harness.tune.sampler import Proposals
from harness.tune.surrogate import Distances
from tests.harness.tune.landscape import plan, scenario, trial_of

OF = scenario()
PLAN = plan(OF)
DISTANCES = Distances(PLAN.candidates)


def _crashes_in_a_corner(candidate: Candidate) -> bool:
    return candidate.batch_size * candidate.workers >= 8


def _crashes_by_dtype(candidate: Candidate) -> bool:
    return candidate.dtype == "int8" and candidate.workers > 1


def _failures(law: Callable[[Candidate], bool], seed: int, *, learns: bool) -> int:
    """Launches of 24 that failed, with a random sampler."""
    of = scenario({"sampler": "random", "trials": 24, "seed": seed})
    proposals, failed = Proposals(PLAN, of), 0
    for number in range(1, 25):
        candidate = proposals.next()
        assert candidate is not None
        trial = trial_of(candidate, number, of)
        if law(candidate):
            failed += 1
            trial = Trial(trial_id=str(number), number=number, candidate=candidate, outcome="crashed")
        if learns:
            proposals.learn(trial)
        else:
            proposals.pass_over(candidate)
    return failed


@pytest.mark.parametrize("law", [_crashes_in_a_corner, _crashes_by_dtype])
def test_fewer_launches_fail_where_failures_are_learned_from(law: Callable[[Candidate], bool]) -> None:
    learned = mean(_failures(law, seed, learns=True) for seed in range(6))
    blind = mean(_failures(law, seed, learns=False) for seed in range(6))
    assert learned <= 0.8 * blind, (learned, blind)


def test_no_candidate_is_ruled_out() -> None:
    tried = list(PLAN.candidates[:40])
    chances = chances_to_run(DISTANCES, tried, [False] * 40, PLAN.candidates)
    assert chances.min() == LEAST
    chances = chances_to_run(DISTANCES, tried, [index % 2 == 0 for index in range(40)], PLAN.candidates)
    assert LEAST <= chances.min() < chances.max() <= 1.0


def test_what_lies_nearer_to_a_failure_is_less_likely_to_run() -> None:
    good, bad = PLAN.candidates[0], PLAN.candidates[-1]
    near, far = PLAN.candidates[-2], PLAN.candidates[1]
    chances = chances_to_run(DISTANCES, [good, bad], [True, False], [near, far])
    assert chances[0] < chances[1]


def test_while_everything_runs_nothing_changes() -> None:
    assert np.all(chances_to_run(DISTANCES, PLAN.candidates[:9], [True] * 9, PLAN.candidates) == 1.0)
    assert np.all(chances_to_run(DISTANCES, [], [], PLAN.candidates) == 1.0)
