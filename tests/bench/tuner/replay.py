"""Contestants on a law or a landscape: each searches it once, on a clock that only trials' costs move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from harness.choose.decide import decide
from harness.choose.goals import goals_of
from harness.clock import FakeClock
from harness.errors import MeasurementInvalid
from harness.records import Candidate, Trial
from harness.trial.raced import as_bound
from harness.tune import loop
from harness.tune.places import Here
from harness.tune.racing import Terms, lost
from harness.tune.search_records import SearchContext
from harness.tune.spreads import Earlier, squares
from tests.bench.tuner.axes import Axes
from tests.bench.tuner.laws import LONG_MIN, TRIALS
from tests.bench.tuner.recorded import Ground
from tests.bench.tuner.rivals import RIVALS


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One search: the true loss of what it recommends against the best, minutes on its clock, the minute at which a
    candidate within 5 % of the best had been measured (infinite: never), and launches, finalists' included: so many
    `out_of_memory`, `ended` early, and of these `reopened`, measured whole later. `is_missed`: one that ended early is
    truly at least 2 % better than the recommended one; `is_lost`: and was never measured whole. Minutes of judging
    answers: each trial's, and each numeric path's once, finalists again. `chance` is what is stated of the runner-up,
    if anything, and `is_better` whether it is better, None where both are truly equal. `redeployed_frac` is how much
    worse than promised the recommended one is when launched again, `launch_s` what a launch took on average."""

    loss_frac: float
    minutes: float
    found_min: float
    launches: int
    out_of_memory: int
    ended: int
    reopened: int
    is_missed: bool
    is_lost: bool
    judged_each_min: float
    judged_once_min: float
    chance: float | None
    is_better: bool | None
    redeployed_frac: float | None
    launch_s: float

    @property
    def judging_min(self) -> float:
        """Its clock where each trial's answers are judged."""
        return self.minutes + self.judged_each_min


def run(law: Ground, contestant: str, seed: int) -> Outcome:
    """One search of `law`; equal for equal arguments. `contestant` is a key of CONTESTANTS."""
    return _outcome(law, CONTESTANTS[contestant](law, seed), seed)


class _NoStudy:
    """A study.db that is not written: a search never reads it."""

    def __init__(self, *place: object) -> None:
        pass

    def add(self, trial: Trial) -> None:
        pass


def _raced(law: Ground, trial: Trial, terms: Terms | None, done: list[Trial], seed: int) -> Trial:
    """The trial, ended at the first check by which it has lost; its load then costs as much less."""
    if terms is None or trial.summary is None:
        return trial
    best = next(each for each in done if each.trial_id == terms.against)
    mine, others = law.pair(trial, best, seed)
    for check, requests in enumerate(terms.checks):
        if requests > len(mine.waited):
            break
        if (race := lost(terms, check, mine, others)) is not None:
            phase_s = {**trial.phase_s, "load": law.load_s(trial, requests, seed)}
            summary = as_bound(trial.summary, race)
            return replace(trial, outcome="ended_early", race=race, phase_s=phase_s, summary=summary)
    return trial


BASELINE = "TPE, all trials"
"""Each of its trials is judged."""
KNOWN_LAUNCHES = 11
"""Launches of one candidate in an earlier run, of a contestant that has one: ten degrees of freedom."""


def _earlier(law: Ground, seed: int) -> Earlier:
    launches = [law.trial(law.plan.candidates[0], number, 1000 + seed) for number in range(1, KNOWN_LAUNCHES + 1)]
    return squares(launches, law.metric)


def _searched(
    sampler: str,
    *,
    ends_when_enough: bool,
    races: bool = False,
    has_earlier: bool = False,
    probes: bool = False,
    clock_frac: float | None = None,
) -> Callable[[Ground, int], list[Trial]]:
    """A search by `dyno tune`'s loop. `clock_frac`: its max_minutes are this share of the baseline's clock."""

    def searched(law: Ground, seed: int) -> list[Trial]:
        clock, trials = FakeClock(), list[Trial]()

        def run_trial(
            candidate: Candidate, number: int, *, judged: Trial | None, order: int, terms: Terms | None
        ) -> Trial:
            if terms is not None and not probes:
                terms = replace(terms, probe=None)
            trial = _raced(law, law.trial(candidate, number, seed), terms if races else None, trials, seed)
            is_judged = judged is None and trial.has_numbers
            clock.sleep_s(trial.duration_s + (law.quality_s(candidate) if is_judged else 0.0))
            return trial

        minutes = LONG_MIN if clock_frac is None else clock_frac * run(law, BASELINE, seed).judging_min
        context = SearchContext(
            scenario=law.scenario(sampler, TRIALS, seed, minutes),
            plan=law.plan,
            study_path=Path(),
            places=Here(run_trial),
            record_trial=trials.append,
            clock=clock,
            earlier=_earlier(law, seed) if has_earlier else {},
            memory_mib=law.memory_mib,
        )
        with patch.object(loop, "StudyRecord", _NoStudy):
            if ends_when_enough:
                loop.search(context)
            else:
                with patch.object(loop, "has_enough", lambda *given: False):
                    loop.search(context)
        return trials

    return searched


def _climbed(law: Ground, seed: int) -> list[Trial]:
    """A hill climb from the smallest value of every axis, as Model Analyzer's quick search goes: it moves to the best
    neighbour, one step along one axis, until none is better. It knows no finalists."""
    axes = law.axes
    at = axes.candidate({axis: values[0] for axis, values in axes.values.items()})
    trials: dict[str, Trial] = {}

    def cost(candidate: Candidate) -> float:
        if candidate.candidate_id not in trials:
            trials[candidate.candidate_id] = law.trial(candidate, len(trials) + 1, seed)
        trial = trials[candidate.candidate_id]
        return law.cost(trial) if trial.summary is not None else math.inf

    while True:
        here = cost(at)
        near = [each for each in _neighbours(axes, at) if each.candidate_id != at.candidate_id]
        measured = [(cost(each), each) for each in near if each.candidate_id in trials or len(trials) < TRIALS]
        best, towards = min(measured, key=lambda pair: pair[0], default=(here, at))
        if best >= here:
            return list(trials.values())
        at = towards


def _neighbours(axes: Axes, candidate: Candidate) -> list[Candidate]:
    found, mine = [], axes.of_candidate(candidate)
    for axis, values in axes.values.items():
        place = values.index(mine[axis])
        for step in (place + 1, place - 1):
            if 0 <= step < len(values):
                found.append(axes.candidate({**mine, axis: values[step]}))
    return found


CONTESTANTS: dict[str, Callable[[Ground, int], list[Trial]]] = {
    "random": _searched("random", ends_when_enough=False),
    "grid": _searched("grid", ends_when_enough=False),
    "hill climb": _climbed,
    BASELINE: _searched("tpe", ends_when_enough=False),
    "GP, all trials": _searched("gp", ends_when_enough=False),
    "dyno (GP, ends when enough)": _searched("gp", ends_when_enough=True),
    "dyno, racing": _searched("gp", ends_when_enough=True, races=True),
    "dyno, racing, launches known": _searched("gp", ends_when_enough=True, races=True, has_earlier=True),
    "dyno, racing and probes": _searched("gp", ends_when_enough=True, races=True, probes=True),
    "dyno, half the clock": _searched("gp", ends_when_enough=True, races=True, probes=True, clock_frac=0.5),
    **{name: search for name, (search, _) in RIVALS.items()},
}


def _outcome(law: Ground, trials: list[Trial], seed: int) -> Outcome:
    loss_frac, chance, is_better, redeployed_frac = math.inf, None, None, None
    try:
        choice = decide(trials, goals_of(law.scenario()))
        loss_frac = law.loss_frac(choice.chosen.candidate)
        promised = choice.chosen.metric(law.metric)
        redeployed_frac = law.redeployed_frac(choice.chosen.candidate, promised.value, seed) if promised else None
        if choice.runner_up is not None:
            chance = choice.chance_better(choice.runner_up)
            gap = law.loss_frac(choice.runner_up.candidate) - loss_frac
            is_better = None if gap == 0 else gap < 0
    except MeasurementInvalid:
        pass
    launched = [trial for trial in trials if trial.outcome != "skipped"]
    ended = [trial for trial in launched if trial.race is not None]
    whole = {trial.candidate.candidate_id for trial in launched if trial.outcome == "ok"}
    missed = [each for each in ended if (1 + law.loss_frac(each.candidate)) * 1.02 <= 1 + loss_frac]
    ran = [trial for trial in launched if trial.has_numbers]
    paths = {law.path_of(trial.candidate): law.quality_s(trial.candidate) for trial in ran}
    again_s = sum(law.quality_s(trial.candidate) for trial in ran if trial.repetition > 0)
    return Outcome(
        loss_frac=loss_frac,
        minutes=sum(trial.duration_s for trial in launched) / 60,
        found_min=_found_s(law, launched) / 60,
        launches=len(launched),
        out_of_memory=sum(trial.outcome == "out_of_memory" for trial in launched),
        ended=len(ended),
        reopened=sum(each.candidate.candidate_id in whole for each in ended),
        is_missed=bool(missed),
        is_lost=any(each.candidate.candidate_id not in whole for each in missed),
        judged_each_min=sum(law.quality_s(trial.candidate) for trial in ran) / 60,
        judged_once_min=(sum(paths.values()) + again_s) / 60,
        chance=chance,
        is_better=is_better,
        redeployed_frac=redeployed_frac,
        launch_s=sum(trial.phase_s.get("launch", 0.0) for trial in launched) / len(launched),
    )


def _found_s(law: Ground, launched: list[Trial]) -> float:
    spent_s = 0.0
    for trial in launched:
        spent_s += trial.duration_s
        if law.loss_frac(trial.candidate) <= 0.05:
            return spent_s
    return math.inf
