"""Six programmed laws over one space of 405 candidates: what a launch measures is a formula, so the best is known.

Each law has one difficulty: a crash region, a plateau, an interaction, heavy noise, drift, a tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from engines.api import Availability, Capabilities
from harness.records import Candidate, Metric, QualityReport, Trial, TrialSummary
from harness.scenario.resolve import resolve
from harness.scenario.schema import Scenario
from harness.space.candidates import SpacePlan, plan_space
from harness.tune.racing import Seen
from tests.bench.tuner.axes import Axes

AXES: Mapping[str, Sequence[str | int]] = {
    "dtype": ["fp32", "bf16", "int8"],
    "workers": [1, 2, 4],
    "batch_size": [1, 2, 4, 8, 16],
    "max_batch_delay_ms": [0, 2, 5],
    "threads": [1, 2, 4],
}
WORK_MS = {"fp32": 40.0, "bf16": 32.0, "int8": 22.0}
BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0}
LAUNCH_S, LOAD_S, QUALITY_S = 10.0, 20.0, 2.5
"""What a trial costs; one that crashes costs its launch. Judging its answers is counted apart: everybody could judge
each numeric path once, which here is a dtype."""
TRIALS = 24
"""Candidates measured at most, finalists apart."""
LONG_MIN = 600.0
"""Minutes that no search here needs."""
REQUESTS = 400
PROMPT_SD, BATCH_SD, OWN_SD = 0.3, 0.1, 0.15
"""Of the logarithm of a request's latency: from prompt to prompt, the same for all trials of a search; from batch to
batch of BATCH requests of a trial; and from request to request."""
BATCH = 8
FAILED_MS = 400.0
"""The cost of what crashes, as another tool is given it: about twice the largest latency of a law."""
METRIC = "latency_p50_ms"
LAUNCH_SD = 0.02
"""Of the logarithm of a latency, from launch to launch, where a law does not say otherwise."""


def smooth_ms(candidate: Candidate) -> float:
    """Work times batching and crowding over parallel workers, plus the batch delay: the law that others alter."""
    threads = candidate.threads or 1
    batching = 0.4 + 0.6 / candidate.batch_size + 0.015 * candidate.batch_size
    crowding = 1 + 0.2 * max(0, candidate.workers * threads - 2)
    return WORK_MS[candidate.dtype] * batching * crowding / _lanes(candidate) + _delay_ms(candidate)


def _lanes(candidate: Candidate) -> float:
    return math.pow(min(candidate.workers, 2), 0.6)


def _delay_ms(candidate: Candidate) -> float:
    return candidate.max_batch_delay_ms * (0.2 if candidate.batch_size > 2 else 1.0)


def _plateau_ms(candidate: Candidate) -> float:
    is_off = candidate.dtype == "int8" and candidate.workers == 2
    return smooth_ms(candidate) if is_off else 50.0


def _interaction_ms(candidate: Candidate) -> float:
    suits = (candidate.threads == 4) == (candidate.workers == 1)
    fills = (candidate.batch_size >= 8) == (candidate.max_batch_delay_ms == 5)
    return (
        WORK_MS[candidate.dtype] * (1.0 if suits else 1.6) * (1.0 if fills else 1.5) * (1 + 0.3 / candidate.batch_size)
    )


def _tie_ms(candidate: Candidate) -> float:
    """The number format and the threads change nothing."""
    return 30 * (0.4 + 0.6 / candidate.batch_size) / _lanes(candidate) + _delay_ms(candidate)


MEMORY_MIB = 17_000.0
"""Three in ten candidates need more."""
PEAK_SD = 0.01
"""Of the logarithm of a launch's peak."""


def _need_mib(candidate: Candidate) -> float:
    """Workers times weights and a cache that grows with the batch."""
    return 1000 * candidate.workers * BYTES[candidate.dtype] * (1 + 0.3 * candidate.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """`latency_ms` is the truth; a launch multiplies it by a lognormal factor of `launch_sd`, and trial n, counted
    from 1, by 1 + (n - 1) `drift_frac`."""

    name: str
    latency_ms: Callable[[Candidate], float]
    need_mib: Callable[[Candidate], float] = _need_mib
    memory_mib: float = math.inf
    launch_sd: float = LAUNCH_SD
    drift_frac: float = 0.0
    metric = METRIC

    @property
    def plan(self) -> SpacePlan:
        """The space, the same for all laws."""
        return plan()

    @property
    def axes(self) -> Axes:
        """Its axes for other tools."""
        return Axes.of(plan())

    def scenario(
        self, sampler: str = "tpe", trials: int = TRIALS, seed: int = 0, minutes: float = LONG_MIN
    ) -> Scenario:
        """What is searched, the same for all laws."""
        return scenario(sampler, trials, seed, minutes)

    def crashes(self, candidate: Candidate) -> bool:
        """Whether it runs out of memory."""
        return self.need_mib(candidate) > self.memory_mib

    def trial(self, candidate: Candidate, number: int, seed: int) -> Trial:
        """What trial `number` of a search measures; equal for equal arguments."""
        trial_id = f"t{number:04d}-{candidate.candidate_id}"
        if self.crashes(candidate):
            return Trial(
                trial_id=trial_id,
                number=number,
                candidate=candidate,
                outcome="out_of_memory",
                reason="out of memory",
                phase_s={"launch": LAUNCH_S},
            )
        value = self._measured_ms(candidate, number, seed)
        metric = Metric(
            value=value, unit="ms", estimator="law", method="bootstrap", n=REQUESTS, low=0.99 * value, high=1.01 * value
        )
        luck = math.exp(PEAK_SD * float(np.random.default_rng([seed, number, 2]).standard_normal()))
        peak = Metric(value=self.need_mib(candidate) * luck, unit="MiB", estimator="law", n=1)
        return Trial(
            trial_id=trial_id,
            number=number,
            candidate=candidate,
            outcome="ok",
            phase_s={"launch": LAUNCH_S, "load": LOAD_S},
            summary=TrialSummary(metrics={METRIC: metric, "peak_memory_mib": peak}),
            quality=QualityReport(verdict="Normal", reason="law", metrics={}),
        )

    def _measured_ms(self, candidate: Candidate, number: int, seed: int) -> float:
        luck = math.exp(self.launch_sd * float(np.random.default_rng([seed, number]).standard_normal()))
        return self.latency_ms(candidate) * luck * (1 + (number - 1) * self.drift_frac)

    def answers(self, candidate: Candidate, number: int, seed: int) -> Seen:
        """The requests of trial `number`, milliseconds, one user at a time; equal for equal arguments."""
        prompts = np.random.default_rng(seed).standard_normal(REQUESTS)
        rng = np.random.default_rng([seed, number, 1])
        batches = np.repeat(rng.standard_normal(REQUESTS // BATCH), BATCH)
        noise = PROMPT_SD * prompts + BATCH_SD * batches + OWN_SD * rng.standard_normal(REQUESTS)
        waited = self._measured_ms(candidate, number, seed) * np.exp(noise)
        return Seen(np.concatenate([[0.0], np.cumsum(waited)[:-1]]), waited)

    def pair(self, mine: Trial, best: Trial, seed: int) -> tuple[Seen, Seen]:
        """The requests of two trials, number by number."""
        return self.answers(mine.candidate, mine.number, seed), self.answers(best.candidate, best.number, seed)

    def blocks(self, trial: Trial, seed: int) -> list[tuple[int, float, int]]:
        """(number, median, requests by its end) of each block of a trial; equal numbers are the same requests."""
        medians = np.median(self.answers(trial.candidate, trial.number, seed).waited.reshape(-1, BATCH), axis=1)
        return [(number, float(value), (number + 1) * BATCH) for number, value in enumerate(medians)]

    def load_s(self, trial: Trial, requests: int, seed: int) -> float:
        """What so many requests of a trial cost."""
        return LOAD_S * requests / REQUESTS

    def cost(self, trial: Trial) -> float:
        """What another tool minimizes: milliseconds; FAILED_MS of what crashed."""
        return FAILED_MS if trial.summary is None else trial.summary.metrics[METRIC].value

    def path_of(self, candidate: Candidate) -> str:
        """The numeric path, whose answers could be judged once."""
        return candidate.dtype

    def quality_s(self, candidate: Candidate) -> float:
        """What judging its answers costs."""
        return QUALITY_S

    def redeployed_frac(self, candidate: Candidate, promised: float, seed: int) -> float | None:
        """Nothing is deployed by a law."""
        return None

    def loss_frac(self, candidate: Candidate) -> float:
        """How much worse than the best `candidate` truly is; infinite where it crashes."""
        return math.inf if self.crashes(candidate) else self.latency_ms(candidate) / best_ms(self) - 1

    def good_frac(self) -> float:
        """Share of the candidates within 5 % of the best."""
        return sum(self.loss_frac(each) <= 0.05 for each in plan().candidates) / plan().size


LAWS = (
    Law(name="crash region", latency_ms=smooth_ms, memory_mib=MEMORY_MIB),
    Law(name="plateau", latency_ms=_plateau_ms),
    Law(name="interaction", latency_ms=_interaction_ms),
    Law(name="heavy noise", latency_ms=smooth_ms, launch_sd=0.15),
    Law(name="drift", latency_ms=smooth_ms, drift_frac=0.01),
    Law(name="tie", latency_ms=_tie_ms),
)


def scenario(sampler: str = "tpe", trials: int = TRIALS, seed: int = 0, minutes: float = LONG_MIN) -> Scenario:
    """One block over AXES; two finalists are measured again, four times each."""
    return Scenario.model_validate(
        {
            "name": "laws",
            "space": [{"engine": "fake", **AXES}],
            "search": {
                "sampler": sampler,
                "trials": trials,
                "seed": seed,
                "max_minutes": minutes,
                "confirm": {"finalists": 2, "repetitions": 4},
            },
        }
    )


def _able(engine: str, python: str) -> Capabilities | Availability:
    return Capabilities(effective_dtypes={name: name for name in WORK_MS}, options={})


@cache
def plan() -> SpacePlan:
    """All 405 candidates."""
    return plan_space(resolve(scenario(), Path("laws.yaml")), _able)


@cache
def best_ms(law: Law) -> float:
    """The lowest true latency of a candidate that does not crash."""
    return min(law.latency_ms(each) for each in plan().candidates if not law.crashes(each))
