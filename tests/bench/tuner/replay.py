"""Contestants on a law: each searches it once with a seed, on a clock that only the trials' costs move."""

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
from tests.bench.tuner.laws import AXES, LOAD_S, REQUESTS, Law, plan, scenario

TRIALS = 24
"""Candidates measured at most, finalists apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One search: the true loss of what it recommends against the best, minutes on its clock, the minute at which a
    candidate within 5 % of the best had been measured (infinite: never), and launches, finalists' included. `ended` of
    them ended early; `is_missed`: one of these is truly at least 2 % better than the recommended one."""

    loss_frac: float
    minutes: float
    found_min: float
    launches: int
    ended: int
    is_missed: bool


def run(law: Law, contestant: str, seed: int) -> Outcome:
    """One search of `law`; equal for equal arguments. `contestant` is a key of CONTESTANTS."""
    return _outcome(law, CONTESTANTS[contestant](law, seed))


class _NoStudy:
    """A study.db that is not written: a search never reads it."""

    def __init__(self, *place: object) -> None:
        pass

    def add(self, trial: Trial) -> None:
        pass


def _raced(law: Law, trial: Trial, terms: Terms | None, done: list[Trial], seed: int) -> Trial:
    """The trial, ended at the first check by which it has lost; its load then costs as much less."""
    if terms is None or trial.summary is None:
        return trial
    best = next(each for each in done if each.trial_id == terms.against)
    mine, others = (law.answers(each.candidate, each.number, seed) for each in (trial, best))
    for check, requests in enumerate(terms.checks):
        if (race := lost(terms, check, mine, others)) is not None:
            phase_s = {**trial.phase_s, "load": LOAD_S * requests / REQUESTS}
            summary = as_bound(trial.summary, race)
            return replace(trial, outcome="ended_early", race=race, phase_s=phase_s, summary=summary)
    return trial


def _searched(sampler: str, *, ends_when_enough: bool, races: bool = False) -> Callable[[Law, int], list[Trial]]:
    def searched(law: Law, seed: int) -> list[Trial]:
        clock, trials = FakeClock(), list[Trial]()

        def run_trial(
            candidate: Candidate, number: int, *, judged: Trial | None, order: int, terms: Terms | None
        ) -> Trial:
            trial = _raced(law, law.trial(candidate, number, seed), terms if races else None, trials, seed)
            clock.sleep_s(trial.duration_s)
            return trial

        context = SearchContext(
            scenario=scenario(sampler, TRIALS, seed),
            plan=plan(),
            study_path=Path(),
            places=Here(run_trial),
            record_trial=trials.append,
            clock=clock,
        )
        with patch.object(loop, "StudyRecord", _NoStudy):
            if ends_when_enough:
                loop.search(context)
            else:
                with patch.object(loop, "expected_gain_frac", lambda *given: None):
                    loop.search(context)
        return trials

    return searched


def _climbed(law: Law, seed: int) -> list[Trial]:
    """A hill climb from the smallest value of every axis, as Model Analyzer's quick search goes: it moves to the best
    neighbour, one step along one axis, until none is better. It knows no finalists."""
    known = {each.candidate_id: each for each in plan().candidates}
    at = next(each for each in plan().candidates if all(getattr(each, axis) == AXES[axis][0] for axis in AXES))
    trials: dict[str, Trial] = {}

    def cost(candidate: Candidate) -> float:
        if candidate.candidate_id not in trials:
            trials[candidate.candidate_id] = law.trial(candidate, len(trials) + 1, seed)
        summary = trials[candidate.candidate_id].summary
        return summary.metrics["latency_p50_ms"].value if summary else math.inf

    while True:
        here = cost(at)
        near = [each for each in _neighbours(at) if each.candidate_id in known]
        measured = [(cost(each), each) for each in near if each.candidate_id in trials or len(trials) < TRIALS]
        best, towards = min(measured, key=lambda pair: pair[0], default=(here, at))
        if best >= here:
            return list(trials.values())
        at = towards


def _neighbours(candidate: Candidate) -> list[Candidate]:
    found = []
    for axis, values in AXES.items():
        place = values.index(getattr(candidate, axis))
        for step in (place + 1, place - 1):
            if 0 <= step < len(values):
                found.append(replace(candidate, **{axis: values[step]}))  # type: ignore[arg-type]
    return found


CONTESTANTS: dict[str, Callable[[Law, int], list[Trial]]] = {
    "random": _searched("random", ends_when_enough=False),
    "grid": _searched("grid", ends_when_enough=False),
    "hill climb": _climbed,
    "TPE, all trials": _searched("tpe", ends_when_enough=False),
    "dyno (TPE, ends when enough)": _searched("tpe", ends_when_enough=True),
    "dyno, racing": _searched("tpe", ends_when_enough=True, races=True),
}


def _outcome(law: Law, trials: list[Trial]) -> Outcome:
    try:
        loss_frac = law.loss_frac(decide(trials, goals_of(scenario())).chosen.candidate)
    except MeasurementInvalid:
        loss_frac = math.inf
    spent_s, found_s = 0.0, math.inf
    launched = [trial for trial in trials if trial.outcome != "skipped"]
    for trial in launched:
        spent_s += trial.duration_s
        if math.isinf(found_s) and law.loss_frac(trial.candidate) <= 0.05:
            found_s = spent_s
    ended = [trial for trial in launched if trial.race is not None]
    return Outcome(
        loss_frac=loss_frac,
        minutes=spent_s / 60,
        found_min=found_s / 60,
        launches=len(launched),
        ended=len(ended),
        is_missed=any((1 + law.loss_frac(each.candidate)) * 1.02 <= 1 + loss_frac for each in ended),
    )
