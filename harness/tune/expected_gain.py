"""The gain that a trial should bring: `gp` proposes the largest; three times below half a percent, enough is found.

Optuna's own terminators are no fit: they need torch and scipy, which dyno does without, look only at parameters that
all trials share (of several engines that is the block alone), and wait for twenty trials where a search has twelve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.choose.goals import Goals
from harness.records import Candidate, Trial
from harness.tune.surrogate import Distances, Surrogate, expected_improvement, fitted, fitted_by_axis

ENOUGH_FRAC = 0.005
"""Of the best objective: less is no gain worth a trial. Half of the 1 % that would be none, since where launches differ
by much the surrogate takes what is left to gain for noise (DECISIONS, entry 65)."""
LOOKS = 3
"""A search ends when so many times running its next trial should gain less than ENOUGH_FRAC."""
MIN_MEASURED = 8
"""Measured candidates below which the surrogate is a guess."""
LEAST_TO_END = MIN_MEASURED + LOOKS - 1
"""Measured candidates before which no search ends so."""
MOST_UNMEASURED = 2_000
"""Candidates that are looked at; of more, some at random."""


def has_enough(distances: Distances, goals: Goals, trials: Sequence[Trial], unmeasured: Sequence[Candidate]) -> bool:
    """Whether the next trial should gain less than ENOUGH_FRAC, and should have, too, before each of the last LOOKS - 1
    trials that have a value: by what was measured and what was not by then."""
    measured = {trial.trial_id for trial in measured_in(goals, trials)}
    begins = [index for index, trial in enumerate(trials) if trial.trial_id in measured]
    for end in [len(trials), *begins[::-1][: LOOKS - 1]]:
        then_unmeasured = [*unmeasured, *(trial.candidate for trial in trials[end:])]
        gain = expected_gain_frac(distances, goals, trials[:end], then_unmeasured)
        if gain is None or gain >= ENOUGH_FRAC:
            return False
    return True


def expected_gain_frac(
    distances: Distances, goals: Goals, trials: Sequence[Trial], unmeasured: Sequence[Candidate]
) -> float | None:
    """By how much of the best objective the most promising of `unmeasured` should improve on `trials`.

    None where that cannot be known: several objectives, values that are not positive, nothing feasible, fewer than
    MIN_MEASURED measured.
    """
    measured, costs, is_positive = _costs(goals, trials)
    is_known = is_positive and any(trial.is_feasible for trial in measured)
    if len(goals.objectives) > 1 or len(measured) < MIN_MEASURED or not is_known:
        return None
    chosen = np.random.default_rng(0).permutation(len(unmeasured))[:MOST_UNMEASURED]
    looked_at = [unmeasured[index] for index in sorted(chosen.tolist())]
    surrogate = fitted(distances, [trial.candidate for trial in measured], costs)
    gains = expected_improvement(*surrogate.predict(looked_at), _best(surrogate, measured))
    return float((gains * feasible_shares(distances, trials, looked_at)).max(initial=0.0))


def expected_gains(
    distances: Distances,
    goals: Goals,
    trials: Sequence[Trial],
    unmeasured: Sequence[Candidate],
    pending: Sequence[Candidate] = (),
) -> np.ndarray:
    """What each of `unmeasured` should gain of the first objective while `pending` are under way: the expected
    improvement of its logarithm under the surrogate (of its value where one is not positive), times the share of its
    like that was feasible. At least two of `trials` have a value. While none is feasible, what counts is what should be
    better than the worst."""
    measured, costs, _ = _costs(goals, trials)
    surrogate = fitted_by_axis(distances, [trial.candidate for trial in measured], costs)
    gains = expected_improvement(*surrogate.awaiting(pending).predict(unmeasured), _best(surrogate, measured))
    likely: np.ndarray = gains * feasible_shares(distances, trials, unmeasured)
    return likely


def _best(surrogate: Surrogate, measured: Sequence[Trial]) -> float:
    """The lowest expected cost of what is feasible; the highest of all where nothing is."""
    means = surrogate.predict([trial.candidate for trial in measured])[0]
    feasible = means[[trial.is_feasible for trial in measured]]
    return float(feasible.min() if len(feasible) else means.max())


def measured_in(goals: Goals, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have a value of the first objective."""
    return [trial for trial in trials if trial.has_numbers and math.isfinite(goals.costs(trial)[0])]


def _costs(goals: Goals, trials: Sequence[Trial]) -> tuple[list[Trial], list[float], bool]:
    """The trials that have a value, the logarithms of these, smaller better, and whether they are: plain values where
    one is not positive."""
    measured = measured_in(goals, trials)
    costs = np.array([goals.costs(trial)[0] for trial in measured])
    sign = 1 if goals.objectives[0].is_minimized else -1
    if (costs * sign <= 0).any():
        return measured, costs.tolist(), False
    return measured, (sign * np.log(costs * sign)).tolist(), True


def feasible_shares(distances: Distances, trials: Sequence[Trial], candidates: Sequence[Candidate]) -> np.ndarray:
    """For each candidate the share of its like that ran and broke no constraint; 1 where nothing like it was tried."""
    near = np.exp(-distances.between(candidates, [trial.candidate for trial in trials]))
    good = np.array([trial.has_numbers and not trial.violations for trial in trials], dtype=float)
    shares: np.ndarray = (1.0 + near @ good) / (1.0 + near.sum(axis=1))
    return shares
