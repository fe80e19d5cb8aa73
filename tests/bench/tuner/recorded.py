"""A recorded landscape as the ground of a search: what a candidate truly is, is the mean of its two launches.

A search draws one endless list of blocks of request numbers, the same for all its candidates: a launch has those blocks
that its load reached in the first launch, as many as it had, so pairs stay pairs. Its times are multiplied to the mean
of both launches and by a launch effect, drawn from what the pairs of launches of its engine differ by. What it costs
was measured; a launch that was the first of its engine and dtype costs what the candidate's second one did.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.choose.goals import goals_of
from harness.errors import EnvironmentFault
from harness.gate.launches import quantile_of
from harness.measure.metrics import metric_of
from harness.quality.inheritance import numeric_path
from harness.records import Candidate, Metric, Trial, TrialSummary
from harness.scenario.load_kinds import ClosedLoad
from harness.scenario.schema import Confirm, Scenario
from harness.space.candidates import SpacePlan
from harness.tune.racing import Seen
from tests.bench.landscapes.landscape import Landscape, Launch, read
from tests.bench.tuner.axes import Axes
from tests.bench.tuner.laws import LONG_MIN, TRIALS, Law

Places = npt.NDArray[np.int64]
LIST = 40
"""The list of blocks is this many times as long as the longest load: the shortest finds its blocks in it."""
CONFIRM = Confirm(finalists=2, repetitions=4)
"""As on the laws."""


@dataclass(frozen=True, kw_only=True)  # no slots: what is computed once is kept
class Recorded:
    """A whole landscape. Raises EnvironmentFault where a candidate lacks a launch."""

    found: Landscape
    memory_mib = math.inf

    def __post_init__(self) -> None:
        missing = self.found.plan.size - len(self.found.pairs)
        if missing:
            raise EnvironmentFault(f"{self.name}: expected two launches of each candidate, {missing} have fewer")
        if not self._truths:
            raise EnvironmentFault(f"{self.name}: no candidate was feasible in both launches: nothing can be won")

    @property
    def name(self) -> str:
        """That of its scenario."""
        return self.found.scenario.name

    @property
    def plan(self) -> SpacePlan:
        """All that was recorded."""
        return self.found.plan

    @cached_property
    def axes(self) -> Axes:
        """Its axes for other tools."""
        return Axes.of(self.plan)

    @property
    def metric(self) -> str:
        """The objective."""
        return goals_of(self.found.scenario).objectives[0].metric

    def scenario(
        self, sampler: str = "tpe", trials: int = TRIALS, seed: int = 0, minutes: float = LONG_MIN
    ) -> Scenario:
        """What was recorded, searched so."""
        search = self.found.scenario.search.model_copy(
            update={"sampler": sampler, "trials": trials, "seed": seed, "max_minutes": minutes, "confirm": CONFIRM}
        )
        return self.found.scenario.model_copy(update={"search": search})

    def trial(self, candidate: Candidate, number: int, seed: int) -> Trial:
        """What trial `number` of a search measures; equal for equal arguments."""
        first = self._first(candidate)
        stored, quality = first.trial, first.trial.quality
        made = replace(
            stored,
            trial_id=f"t{number:04d}-{candidate.candidate_id}",
            number=number,
            started_utc="",
            phase_s=self._phase_s(candidate),
            quality=replace(quality, inherited_from="") if quality is not None else None,
        )
        metric = metric_of(stored, self.metric)
        if stored.summary is None or metric is None or not len(self._drawn(first, seed)[1]):
            return made
        change = self._statistic(self._seen(made, seed)) / self._statistic(Seen(first.began_ms, first.waited_ms))
        return replace(made, summary=_with(stored.summary, self.metric, _scaled(metric, change)))

    def pair(self, mine: Trial, best: Trial, seed: int) -> tuple[Seen, Seen]:
        """The requests of a trial, and the same ones of another: NaN where it has not answered them."""
        places, _ = self._drawn(self._first(mine.candidate), seed)
        its_places, _ = self._drawn(self._first(best.candidate), seed)
        its, rows = self._seen(best, seed), {int(place): row for row, place in enumerate(its_places)}
        began, waited = (np.full(len(places) * self._round, np.nan) for _ in range(2))
        for row, place in enumerate(places):
            if int(place) in rows:
                to, source = (slice(each * self._round, (each + 1) * self._round) for each in (row, rows[int(place)]))
                began[to], waited[to] = its.began[source], its.waited[source]
        return self._seen(mine, seed), Seen(began, waited)

    def blocks(self, trial: Trial, seed: int) -> list[tuple[int, float, int]]:
        """(number, statistic, requests by its end) of each block of a trial's requests; equal numbers are the same."""
        places, _ = self._drawn(self._first(trial.candidate), seed)
        seen, found = self._seen(trial, seed), []
        for row, place in enumerate(places):
            block = slice(row * self._round, (row + 1) * self._round)
            value = float(np.nanmean(seen.waited[block])) if np.isfinite(seen.waited[block]).any() else math.nan
            found.append((int(place), value, (row + 1) * self._round))
        return [each for each in found if math.isfinite(each[1])]

    def load_s(self, trial: Trial, requests: int, seed: int) -> float:
        """What so many requests of a trial cost, warm-up included; all of them cost what was measured."""
        first, seen = self._first(trial.candidate), self._seen(trial, seed)
        whole_s = trial.phase_s["load"]
        if requests >= len(seen.waited):
            return whole_s
        ends = np.sort(seen.began + np.nan_to_num(seen.waited))
        span_ms = float(np.nanmax(first.began_ms + np.nan_to_num(first.waited_ms)))
        return min(whole_s, max(0.0, whole_s - span_ms / 1000) + float(ends[requests - 1]) / 1000)

    def cost(self, trial: Trial) -> float:
        """What another tool minimizes, above 0; twice the worst of what did not run."""
        metric = metric_of(trial, self.metric)
        if not trial.is_feasible or metric is None:
            return 2 * max(self._truths.values())
        return self._cost(metric.value)

    def path_of(self, candidate: Candidate) -> Hashable:
        """The numeric path, whose answers could be judged once."""
        declared = next(block.changes_answers for block in self.plan.blocks if block.block == candidate.block)
        return tuple(sorted((name, str(value)) for name, value in numeric_path(candidate, declared).items()))

    def quality_s(self, candidate: Candidate) -> float:
        """What judging its answers cost where they were judged; the median of all where they were not."""
        own = [each.trial.phase_s["quality"] for each in self._pairs[candidate.candidate_id] if _is_judged(each)]
        every = [each.trial.phase_s["quality"] for each in self.found.launches if _is_judged(each)]
        return own[0] if own else float(np.median(every)) if every else 0.0

    def loss_frac(self, candidate: Candidate) -> float:
        """How much worse than the best it is; infinite where a launch failed or broke a constraint."""
        return self._truths.get(candidate.candidate_id, math.inf) / min(self._truths.values()) - 1

    def redeployed_frac(self, candidate: Candidate, promised: float, seed: int) -> float | None:
        """How much worse than what a search measured it is in one launch more."""
        if candidate.candidate_id not in self._truths:
            return math.inf
        luck = math.exp(self._effect(candidate.engine, np.random.default_rng([seed, 5])))
        return self._truths[candidate.candidate_id] * luck / self._cost(promised) - 1

    def unlucky_frac(self, by: float) -> float:
        """Share of launches that are worse than their candidate by this share or more."""
        every = [sign * each for effects in self._effects.values() for each in effects for sign in (-1, 1)]
        return sum(each >= math.log1p(by) for each in every) / len(every) if every else 0.0

    def good_frac(self) -> float:
        """Share of the candidates within 5 % of the best."""
        return sum(self.loss_frac(each) <= 0.05 for each in self.plan.candidates) / self.plan.size

    def total_min(self) -> float:
        """Minutes of measuring each candidate whole and once, answers unjudged."""
        return sum(sum(self._phase_s(each).values()) for each in self.plan.candidates) / 60

    def _cost(self, value: float) -> float:
        return value if goals_of(self.found.scenario).objectives[0].is_minimized else 1 / value

    def _first(self, candidate: Candidate) -> Launch:
        return self._pairs[candidate.candidate_id][0]

    @cached_property
    def _pairs(self) -> dict[str, tuple[Launch, Launch]]:
        return self.found.pairs

    @cached_property
    def _truths(self) -> dict[str, float]:
        """Candidate id -> geometric mean of what both launches cost, of those that were feasible in both."""
        found = {name: [_value(each, self.metric) for each in pair] for name, pair in self._pairs.items()}
        return {
            name: math.sqrt(math.prod(self._cost(each) for each in both if each is not None))
            for name, both in found.items()
            if None not in both
        }

    @cached_property
    def _effects(self) -> dict[str, list[float]]:
        """Engine -> what one launch adds to the logarithm of a time, from each of its pairs."""
        found: dict[str, list[float]] = {}
        for pair in self._pairs.values():
            first, second = (_value(each, self.metric) for each in pair)
            if first is not None and second is not None:
                found.setdefault(pair[0].trial.candidate.engine, []).append(math.log(second / first) / math.sqrt(2))
        return found

    @cached_property
    def _round(self) -> int:
        """Requests of a block: one round of all users."""
        load = self.found.scenario.workload.load
        return load.most_users if isinstance(load, ClosedLoad) else 1

    @cached_property
    def _most(self) -> int:
        """Blocks of the longest load."""
        return max(len(each.waited_ms) // self._round for each in self.found.launches)

    def _phase_s(self, candidate: Candidate) -> dict[str, float]:
        """What a trial costs, but for judging its answers, which is counted apart."""
        pair = self._pairs[candidate.candidate_id]
        phases = dict(pair[0].trial.phase_s)
        if pair[0].is_cold and "launch" in pair[1].trial.phase_s:
            phases["launch"] = pair[1].trial.phase_s["launch"]
        return {name: spent_s for name, spent_s in phases.items() if name != "quality"}

    def _drawn(self, launch: Launch, seed: int) -> tuple[Places, Places]:
        """Where in the list of this search the blocks of a launch stand, and which they are."""
        every = np.random.default_rng([seed, 3]).integers(self._most, size=LIST * self._most)
        count = len(launch.waited_ms) // self._round
        places = np.flatnonzero(every < count)[:count]
        return places, every[places]

    def _seen(self, trial: Trial, seed: int) -> Seen:
        """The drawn requests of a trial, milliseconds, with its launch's effect."""
        launch, length = self._first(trial.candidate), self._round
        ends = launch.began_ms + np.nan_to_num(launch.waited_ms)
        began, waited, at_ms = [], [], 0.0
        for block in self._drawn(launch, seed)[1]:
            mine = slice(int(block) * length, (int(block) + 1) * length)
            start = launch.began_ms[mine.start]
            began.append(at_ms + launch.began_ms[mine] - start)
            waited.append(launch.waited_ms[mine])
            is_last = mine.stop >= len(launch.began_ms)
            at_ms += (np.max(ends[mine]) if is_last else launch.began_ms[mine.stop]) - start
        luck = self._luck(trial, seed)
        return Seen(np.concatenate([*began, []]) * luck, np.concatenate([*waited, []]) * luck)

    def _luck(self, trial: Trial, seed: int) -> float:
        """What the times of the candidate's first launch are multiplied by in this trial."""
        first = _value(self._first(trial.candidate), self.metric)
        truth = self._truths.get(trial.candidate.candidate_id)
        lift = truth / self._cost(first) if first is not None and truth is not None else 1.0
        rng = np.random.default_rng([seed, trial.number, 4])
        return lift * math.exp(self._effect(trial.candidate.engine, rng))

    def _effect(self, engine: str, rng: np.random.Generator) -> float:
        """What one launch adds to the logarithm of a time: what a pair of its engine shows, either way."""
        return float(rng.choice(self._effects.get(engine, [0.0]))) * float(rng.choice([-1.0, 1.0]))

    def _statistic(self, seen: Seen) -> float:
        """What stands for the objective in its requests: requests per millisecond, a mean, or a quantile."""
        if self.metric.startswith("throughput_"):
            return len(seen.waited) / float(np.nanmax(seen.began + np.nan_to_num(seen.waited)))
        q = quantile_of(self.metric)
        return float(np.nanmean(seen.waited) if q is None else np.nanquantile(seen.waited, q))


Ground = Law | Recorded
"""What a contestant searches."""


def recorded(folder: Path) -> Recorded:
    """The landscape in `folder`. Raises EnvironmentFault."""
    return Recorded(found=read(folder))


def _is_judged(launch: Launch) -> bool:
    return launch.trial.is_judged and "quality" in launch.trial.phase_s


def _value(launch: Launch, metric: str) -> float | None:
    found = metric_of(launch.trial, metric)
    return found.value if found is not None and launch.trial.is_feasible else None


def _scaled(metric: Metric, change: float) -> Metric:
    low, high = (None if each is None else each * change for each in (metric.low, metric.high))
    return replace(metric, value=metric.value * change, low=low, high=high)


def _with(summary: TrialSummary, name: str, metric: Metric) -> TrialSummary:
    return replace(summary, metrics={**summary.metrics, name: metric})
