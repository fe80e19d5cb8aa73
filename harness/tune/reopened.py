"""Races judged again once the spread of launches is known: who would not have lost them is measured whole.

A race that an assumed spread decided was too strict where launches differ by more; and it was lost to one launch of
another candidate, which may have been a lucky one. When the finalists are measured again, both are known better.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.choose.goals import goals_of
from harness.choose.repetitions import pool
from harness.race import Race
from harness.records import Candidate, Trial
from harness.scenario.schema import Scenario
from harness.tune.finalists import finalists, whole_measurements
from harness.tune.spreads import Earlier, margin_frac, spread_of


def reopened(trials: Sequence[Trial], scenario: Scenario, earlier: Earlier) -> tuple[Candidate, ...]:
    """The candidates that ended early, were not measured whole since, and whose bound is within what launches may
    differ by: both of the launch that they raced, and of the mean of the best finalist's; the nearest first."""
    names = {candidate.candidate_id for candidate in finalists(trials, scenario)}
    confirmed, goals = [one for one in pool(trials) if one.candidate.candidate_id in names], goals_of(scenario)
    if not confirmed:
        return ()
    best = min(confirmed, key=lambda one: one.rank(goals))
    engines = {trial.trial_id: trial.candidate.engine for trial in trials}
    near = []
    for trial in whole_measurements(trials):
        race = trial.race
        measured = best.metric(race.metric) if race is not None else None
        if race is None or measured is None:
            continue
        mine, raced, its = (
            spread_of(engine, trials, race.metric, earlier)
            for engine in (trial.candidate.engine, engines[race.against], best.candidate.engine)
        )
        worse = _bound_ratio(race, measured.value) - 1
        is_near = worse <= margin_frac(mine, its, launches=len(best.counted))
        if is_near and race.at_least_frac <= margin_frac(mine, raced):
            near.append((worse, trial.number, trial.candidate))
    return tuple(candidate for _, _, candidate in sorted(near, key=lambda each: each[:2]))


def _bound_ratio(race: Race, best_value: float) -> float:
    """How many times as bad as `best_value` the bound of a race is."""
    ratio = race.against_value / best_value
    return (1 + race.at_least_frac) * (ratio if race.metric.startswith("latency_") else 1 / ratio)
