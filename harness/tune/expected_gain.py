"""The gain that the next trial of a search should bring: below a hundredth, the search has found enough.

Optuna's own terminators are no fit: they need torch and scipy, which dyno does without, look only at parameters that
all trials share (of several engines that is the block alone), and wait for twenty trials where a search has twelve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.choose.goals import Goals
from harness.records import Candidate, Trial
from harness.tune.surrogate import Distances, expected_improvement, fitted

ENOUGH_FRAC = 0.01
"""A search ends when its next trial should gain less of the best objective."""
MIN_MEASURED = 8
"""Measured candidates below which the surrogate is a guess."""
MOST_UNMEASURED = 2_000
"""Candidates that are looked at; of more, evenly spaced ones."""


def expected_gain_frac(
    distances: Distances, goals: Goals, trials: Sequence[Trial], unmeasured: Sequence[Candidate]
) -> float | None:
    """By how much of the best objective the most promising of `unmeasured` should improve on `trials`.

    Expected improvement under the surrogate, times the share of its like that was feasible. None where that cannot be
    known: several objectives, values that are not positive, nothing feasible, fewer than MIN_MEASURED measured.
    """
    metric = goals.objectives[0]
    costs = {trial.trial_id: goals.costs(trial)[0] for trial in trials if trial.has_numbers}
    measured = [trial for trial in trials if math.isfinite(costs.get(trial.trial_id, math.inf))]
    values = np.array([costs[trial.trial_id] for trial in measured]) * (1 if metric.is_minimized else -1)
    feasible = [trial.candidate for trial in measured if trial.is_feasible]
    if len(goals.objectives) > 1 or len(measured) < MIN_MEASURED or not feasible or values.min() <= 0:
        return None
    logs = np.log(values) * (1 if metric.is_minimized else -1)
    surrogate = fitted(distances, [trial.candidate for trial in measured], logs.tolist())
    looked_at = unmeasured[:: max(1, len(unmeasured) // MOST_UNMEASURED)]
    best = float(surrogate.predict(feasible)[0].min())
    gains = expected_improvement(*surrogate.predict(looked_at), best)
    return float((gains * feasible_shares(distances, trials, looked_at)).max(initial=0.0))


def feasible_shares(distances: Distances, trials: Sequence[Trial], candidates: Sequence[Candidate]) -> np.ndarray:
    """For each candidate the share of its like that ran and broke no constraint; 1 where nothing like it was tried."""
    near = np.exp(-distances.between(candidates, [trial.candidate for trial in trials]))
    good = np.array([trial.has_numbers and not trial.violations for trial in trials], dtype=float)
    shares: np.ndarray = (1.0 + near @ good) / (1.0 + near.sum(axis=1))
    return shares
