"""The time that a search should take: an interval learnt from earlier runs of the same load on this machine class."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import quantiles

from harness.records import Trial
from harness.scenario.resolve import ResolvedScenario
from harness.scenario.schema import Scenario
from harness.space.plan_text import Forecast, expectation, facts_of
from harness.store.reader import Run
from harness.tune.expected_gain import LEAST_TO_END
from harness.tune.finalists import first_measurements

DRAWS = 1_000
PARTS = 14
"""The interval leaves out the first and the last of so many equal parts of the draws; with that 8 of 10 made searches
lie within it (tests/harness/tune/test_forecast.py)."""
DAY_FRAC = 0.05
"""Assumed: by how much all launches of a run are slower or faster than those of another (standard deviation)."""
ENOUGH_RUNS = 10
"""Earlier runs that are drawn from, the newest."""
_UNHURRIED_S = 3_600.0
"""A run whose first trial began later than this after it was opened was left alone in between; its setup is not
known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """An earlier run: seconds until its first trial, those of each trial of its search and of its repetitions; `asked`
    is the same search, so that its number of trials may be expected again."""

    setup_s: float
    searched_s: tuple[float, ...]
    again_s: tuple[float, ...]
    asked: bool


def forecast(resolved: ResolvedScenario, size: int, engines: Sequence[str], runs: Sequence[Run]) -> Forecast | None:
    """The seconds between which 8 of 10 searches over `size` candidates of `engines` should end, by earlier runs of the
    same model and load; None where there is none.

    A draw resamples the runs and their trials (so little as is known of their mean is in it), takes as many of them as
    one of the runs had or, as if one run more had shown anything, a number between the least and the most that are
    possible, and shifts all of them by what a machine may differ between two days. The estimator is the 7th and 93rd
    percentile of DRAWS such sums, each at most `search.max_minutes`: so wide, because few runs know the tails badly.
    """
    like = [run for run in runs if _is_like(run, resolved)]
    past = [found for run in like if (found := _past(run, resolved, engines)).searched_s][:ENOUGH_RUNS]
    if not past:
        return None
    scenario = resolved.scenario
    most = expectation(scenario, size, facts_of(resolved))
    can_end_early = scenario.search.sampler != "grid" and len(scenario.objectives) == 1
    least = min(LEAST_TO_END, most.trials) if can_end_early else most.trials
    known = [each for each in past if each.asked]
    rng, totals = random.Random(0), []
    for _ in range(DRAWS):
        trials, again = rng.randint(least, most.trials), most.repetitions
        if number := rng.randrange(len(known) + 1):
            one = known[number - 1]
            trials, again = len(one.searched_s), len(one.again_s)
        shift = rng.lognormvariate(0.0, DAY_FRAC * math.sqrt(1 + 1 / len(past)))
        totals.append(min(shift * _drawn_s(rng, past, trials, again), scenario.search.max_minutes * 60))
    parts = quantiles(totals, n=PARTS)
    tried = {trial.candidate.engine for run in like for trial in run.trials}
    return Forecast(
        low_s=parts[0],
        high_s=parts[-1],
        runs=len(past),
        trials=sum(len(each.searched_s) for each in past),
        unknown=tuple(engine for engine in engines if engine not in tried),
    )


def _drawn_s(rng: random.Random, past: Sequence[_Past], trials: int, again: int) -> float:
    """Seconds of a setup, so many trials, as many measured again, and the launch of the written file."""
    runs = rng.choices(past, k=len(past))
    pool = [each for run in runs for each in rng.choices(run.searched_s, k=len(run.searched_s))]
    later = [each for run in runs if run.again_s for each in rng.choices(run.again_s, k=len(run.again_s))] or pool
    return runs[0].setup_s + sum(rng.choices(pool, k=trials)) + sum(rng.choices(later, k=again + 1))


def _is_like(run: Run, resolved: ResolvedScenario) -> bool:
    """Whether it asked the same model the same."""
    then = run.resolved.scenario
    now = resolved.scenario
    is_same = (then.workload, then.quality) == (now.workload, now.quality)
    return is_same and run.resolved.model == resolved.model


def _past(run: Run, resolved: ResolvedScenario, engines: Sequence[str]) -> _Past:
    then, now = run.resolved.scenario, resolved.scenario
    launched = [trial for trial in run.trials if trial.phase_s and trial.candidate.engine in engines]
    searched = [trial for trial in first_measurements(launched) if not trial.repetition]
    numbers = {trial.number for trial in searched}
    again = [trial for trial in launched if trial.number not in numbers]
    return _Past(
        setup_s=_setup_s(run, launched),
        searched_s=tuple(trial.duration_s for trial in searched),
        again_s=tuple(trial.duration_s for trial in again),
        asked=_terms(then) == _terms(now),
    )


def _terms(scenario: Scenario) -> tuple[object, ...]:
    """What decides how many trials a search takes, apart from chance."""
    return scenario.search.model_copy(update={"seed": 0}), scenario.objectives, scenario.constraints


def _setup_s(run: Run, trials: Sequence[Trial]) -> float:
    """Seconds from the opening of the run to its first trial, in which the reference is asked; 0 where not known."""
    try:
        first = min(datetime.fromisoformat(trial.started_utc) for trial in trials)
        seconds = (first - datetime.fromisoformat(run.manifest.created_utc)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return seconds if 0 <= seconds <= _UNHURRIED_S else 0.0
