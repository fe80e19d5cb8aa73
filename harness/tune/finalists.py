"""The finalists at the end of a search: the best candidates, measured again, interleaved.

The best of many noisy trials is over-estimated (winner's curse), and a machine drifts: so the finalists of the search
are measured `repetitions` more times in turns, the order reversed in every second round (ABBA). The recommendation
pools all trials of a candidate. Their own answers are judged, whatever quality the search let them inherit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.choose.goals import dominates, goals_of
from harness.records import NOT_MEASURED, Candidate, Trial
from harness.scenario.schema import Scenario


def first_measurements(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The first trial of every candidate that was neither interrupted nor lost, on a machine whose numbers count: what
    the search itself learned from."""
    first: dict[str, Trial] = {}
    for trial in trials:
        if trial.outcome not in NOT_MEASURED and not trial.unranked:
            first.setdefault(trial.candidate.candidate_id, trial)
    return tuple(first.values())


def whole_measurements(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The first measurements, but of a candidate that ended early and was measured whole later the latter."""
    trials = tuple(trials)
    whole = {trial.candidate.candidate_id: trial for trial in reversed(trials) if _counts(trial)}
    first = first_measurements(trials)
    return tuple(each if each.race is None else whole.get(each.candidate.candidate_id, each) for each in first)


def finalists(trials: Sequence[Trial], scenario: Scenario) -> tuple[Candidate, ...]:
    """The best feasible candidates by their first measurement, at most search.confirm.finalists, and the incumbent,
    whose number is one side of the gain; none below two, unless the one inherited its quality.

    With several objectives, undominated candidates come first, ordered by the first objective.
    """
    feasible = [trial for trial in whole_measurements(trials) if trial.is_feasible]
    goals = goals_of(scenario)
    costs = {trial.trial_id: goals.costs(trial) for trial in feasible}

    def rank(trial: Trial) -> tuple[bool, tuple[float, ...]]:
        mine = costs[trial.trial_id]
        return any(dominates(others, mine) for others in costs.values()), mine

    ordered = sorted(feasible, key=rank)
    count = scenario.search.confirm.finalists
    marked = {index for index, block in enumerate(scenario.space) if block.incumbent}
    late = [trial for trial in ordered[count:] if count and trial.candidate.block in marked]
    chosen = tuple(trial.candidate for trial in (*ordered[:count], *late))
    return chosen if len(chosen) > 1 or any(_inherits(one) for one in feasible) else ()


def _inherits(trial: Trial) -> bool:
    return trial.quality is not None and bool(trial.quality.inherited_from)


def remaining(trials: Sequence[Trial], scenario: Scenario) -> tuple[tuple[Candidate, int], ...]:
    """(finalist, repetition number from 1) in the order still to be measured, given all trials so far."""
    chosen = finalists(trials, scenario)
    done = {each.candidate_id: repetitions(trials, each) - 1 for each in chosen}
    left = []
    for repetition in range(1, scenario.search.confirm.repetitions + 1):
        order = chosen if repetition % 2 == 0 else tuple(reversed(chosen))
        left += [(each, repetition) for each in order if done[each.candidate_id] < repetition]
    return tuple(left)


def repetitions(trials: Iterable[Trial], candidate: Candidate) -> int:
    """How many finished trials `candidate` has that count and did not lose a race."""
    return sum(trial.candidate.candidate_id == candidate.candidate_id and _counts(trial) for trial in trials)


def _counts(trial: Trial) -> bool:
    return trial.outcome not in NOT_MEASURED and trial.race is None and not trial.unranked
