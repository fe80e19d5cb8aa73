"""A known landscape: what each candidate 'measures' is a formula, so the best one is known and nothing is launched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engines.api import Availability, Capabilities, EngineFacts
from harness.choose.goals import goals_of
from harness.clock import FakeClock
from harness.quality.inheritance import inherited
from harness.race import Race
from harness.records import Candidate, Metric, QualityReport, Trial, TrialSummary
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.scenario.schema import Scenario
from harness.space.candidates import SpacePlan, plan_space
from harness.trial.raced import as_bound
from harness.tune.places import Here
from harness.tune.racing import Terms
from harness.tune.search_records import SearchContext, SearchEvent

DTYPE_COST = {"fp32": 1.0, "bf16": 0.8, "int8": 0.55}
ENGINE_COST = {"transformers": 60.0, "ctranslate2": 25.0, "onnxruntime": 35.0}
ENGINE_THREADS = {"transformers": 2, "ctranslate2": 1, "onnxruntime": 2}
MEMORY_MIB = {"transformers": 500.0, "ctranslate2": 150.0, "onnxruntime": 260.0}
BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0}

ABLE = Capabilities(
    effective_dtypes={name: name for name in DTYPE_COST},
    options={"compile": "compile"},
    changes_answers={"batch_size": ("int8",)},
)


def able(engine: str, python: str) -> Capabilities | Availability:
    """Every engine of the landscape can do everything that is asked in it."""
    return ABLE


def scenario(search: Mapping[str, object] | None = None, **changes: object) -> Scenario:
    """Three engines, 432 candidates; about a fifth break the memory or quality constraint."""
    axes = {
        "dtype": ["fp32", "bf16", "int8"],
        "workers": [1, 2, 4],
        "batch_size": [1, 2, 4, 8],
        "max_batch_delay_ms": [0, 5],
        "threads": [1, 2],
    }
    fields: dict[str, object] = {
        "name": "landscape",
        "space": [{"engine": engine, **axes} for engine in ENGINE_COST],
        "constraints": {"quality": "Normal", "peak_memory_mib": {"max": 6000}},
        "search": {"max_minutes": 600.0, "confirm": {"finalists": 0}, **(search or {})},
    }
    return Scenario.model_validate({**fields, **changes})


def resolved(of: Scenario) -> ResolvedScenario:
    return resolve(of, Path("landscape.yaml"))


def plan(of: Scenario) -> SpacePlan:
    return plan_space(resolved(of), able)


def latency_ms(candidate: Candidate) -> float:
    """Work / speed, plus contention beyond two cores, plus the batch delay; interactions between all axes."""
    threads = candidate.threads or 1
    work = ENGINE_COST[candidate.engine] * DTYPE_COST[candidate.dtype]
    batching = 0.35 + 0.65 / candidate.batch_size + 0.02 * candidate.batch_size
    crowding = 1.0 + 0.25 * max(0, candidate.workers * threads - 2)
    parallel = min(candidate.workers, 2) ** 0.6 * (1.15 if threads == ENGINE_THREADS[candidate.engine] else 1.0)
    delay = candidate.max_batch_delay_ms * (0.2 if candidate.batch_size > 2 else 1.0)
    return 8 * work * batching * crowding / parallel + delay


def memory_mib(candidate: Candidate) -> float:
    per_worker = MEMORY_MIB[candidate.engine] * BYTES[candidate.dtype]
    return candidate.workers * per_worker * (1 + 0.05 * candidate.batch_size)


def is_degraded(candidate: Candidate) -> bool:
    """onnxruntime's int8 loses answers; ctranslate2's int8 does with large batches."""
    return candidate.dtype == "int8" and (
        candidate.engine == "onnxruntime" or (candidate.engine == "ctranslate2" and candidate.batch_size == 8)
    )


def trial_of(candidate: Candidate, number: int, of: Scenario, noise: float = 1.0) -> Trial:
    """The finished trial that the landscape gives; above 9000 MiB it runs out of memory."""
    head = {"trial_id": f"t{number:04d}-{candidate.candidate_id}", "number": number, "candidate": candidate}
    if memory_mib(candidate) > 9000:
        return Trial(**head, outcome="out_of_memory", reason="out of memory", phase_s={"launch": 5.0})  # type: ignore[arg-type]
    metrics = {
        "latency_p50_ms": Metric(value=latency_ms(candidate) * noise, unit="ms", estimator="formula", n=100),
        "throughput_rps": Metric(value=8000 / latency_ms(candidate), unit="requests/s", estimator="formula", n=100),
        "peak_memory_mib": Metric(value=memory_mib(candidate), unit="MiB", estimator="formula", n=1),
        "error_frac": Metric(value=0.0, unit="frac", estimator="formula", n=100),
    }
    verdict = "Degraded" if is_degraded(candidate) else "Normal"
    trial = Trial(
        **head,  # type: ignore[arg-type]
        outcome="ok",
        phase_s={"launch": 5.0, "load": 15.0},
        summary=TrialSummary(metrics=metrics),
        quality=QualityReport(verdict=verdict, reason="formula", metrics={}),
    )
    return Trial(**{**{f: getattr(trial, f) for f in Trial.__slots__}, "violations": goals_of(of).violations(trial)})


def best_latency_ms(of: Scenario) -> float:
    """The lowest latency of any candidate that holds every constraint."""
    trials = [trial_of(candidate, 1, of) for candidate in plan(of).candidates]
    return min((latency_ms(trial.candidate) for trial in trials if trial.is_feasible), default=math.inf)


def raced(trial: Trial, terms: Terms | None) -> Trial:
    """The trial, ended early where it is worse than its terms allow: the landscape has no noise."""
    if terms is None or trial.summary is None:
        return trial
    worse = trial.summary.metrics[terms.metric].value / terms.against_value - 1
    if worse <= terms.margin_frac:
        return trial
    race = Race(
        against=terms.against, metric=terms.metric, against_value=terms.against_value, margin_frac=terms.margin_frac,
        level=terms.level, check=1, checks=len(terms.checks), requests=terms.checks[0], blocks=8, block_requests=1,
        worse_frac=worse, at_least_frac=(worse + terms.margin_frac) / 2,
    )  # fmt: skip
    return replace(
        trial, outcome="ended_early", reason="lost", race=race, summary=as_bound(trial.summary, race), violations=()
    )


class Bench:
    """A search context over the landscape; `recorded` is the run's trials.jsonl, `launched` what really ran. With
    `races` a trial ends early when it loses."""

    def __init__(self, of: Scenario, study_path: Path, done: tuple[Trial, ...] = (), *, races: bool = False) -> None:
        self.scenario = of
        self._races = races
        self.clock = FakeClock()
        self.recorded: list[Trial] = list(done)
        self.launched: list[Candidate] = []
        self.events: list[SearchEvent] = []
        self._study_path = study_path
        self._done = done

    def run_trial(
        self,
        candidate: Candidate,
        number: int,
        *,
        judged: Trial | None = None,
        order: int = 0,
        terms: Terms | None = None,
    ) -> Trial:
        self.launched.append(candidate)
        trial = raced(trial_of(candidate, number, self.scenario), terms if self._races else None)
        if judged is not None and trial.has_numbers:
            facts = EngineFacts(effective_dtype="", versions={}, load_s=0.0)
            trial = replace(trial, quality=inherited(judged, facts))
        self.clock.sleep_s(sum(trial.phase_s.values()))
        return trial

    def context(self) -> SearchContext:
        return SearchContext(
            scenario=self.scenario,
            plan=plan(self.scenario),
            study_path=self._study_path,
            places=Here(self.run_trial),
            record_trial=self.recorded.append,
            clock=self.clock,
            on_event=self.events.append,
            done=self._done,
        )


class NoStudy:
    """Instead of study.db, which takes longer to write than a search of the landscape takes."""

    def __init__(self, *place: object) -> None: ...

    def add(self, trial: Trial) -> None: ...
