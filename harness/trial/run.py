"""Running one trial end to end: launch, check the answers, load, measure, stop.

Whatever happens, `TrialRunner.run` returns a Trial (an outcome with its reason), except when the user interrupts:
then `TrialInterrupted` carries the record of the trial in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from engines.api import EngineFacts, RunningEngine
from engines.errors import EngineError, OutOfMemory
from engines.registry import traits
from harness.choose.goals import goals_of
from harness.clock import Clock
from harness.cost.price import with_cost
from harness.errors import Interrupted, MeasurementInvalid, outcome_of
from harness.level import Level
from harness.load.served_model import ServedModel, empty_ids
from harness.measure.asked_lengths import repeated_prompts
from harness.measure.doubts import crashed
from harness.measure.machine.machine_class import this_machine
from harness.quality.equivalence import QualityRule, has_right_answers, judge
from harness.quality.inheritance import inherited
from harness.quality.logprob import LogprobDrops
from harness.records import Candidate, Doubt, QualityReport, Trial, TrialOutcome, TrialSummary
from harness.scenario.load_kinds import Open
from harness.store.writer import RunWriter
from harness.trial.answer_scores import AnswerScorer
from harness.trial.ask_prompts import NOTHING_ASKED, Answers, ask_quality_prompts
from harness.trial.endpoint_form import chat_facts
from harness.trial.inputs import TrialInputs
from harness.trial.kept_conversations import check_kept
from harness.trial.largest_shape import PHASE, drive_largest
from harness.trial.launch import Launched
from harness.trial.load_window import Loads
from harness.trial.progress import LAUNCH, Phase, Progress
from harness.trial.raced import racing, why_ended
from harness.trial.reference import FurtherAnswers, Reference
from harness.trial.sweep import asked_levels
from harness.trial.weights_read import with_memory_reads
from harness.trial.window import Loaded, Window, at, why_void
from harness.tune.racing import Terms
from harness.units import NS_PER_S

FIRST_ROUND = 1
"""The round of the finalists in which each is driven to the largest shape."""


class TrialInterrupted(Interrupted):
    """The user stopped the trial in flight; `trial` is its record."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(f"interrupted during trial {trial.trial_id}")
        self.trial = trial


class TrialRunner:
    """Runs one trial at a time. Raw records, answers and logs go to the run folder of `writer`; answers are judged by
    those of the `reference`."""

    def __init__(
        self, inputs: TrialInputs, writer: RunWriter, clock: Clock, progress: Progress, reference: Reference
    ) -> None:
        self._inputs = inputs
        self._writer = writer
        self._clock = clock
        self._progress = progress
        self._reference = reference.answers
        self._scorer = AnswerScorer(inputs, reference, progress)
        self._further = FurtherAnswers(inputs, writer.layout, progress)
        self._loads = Loads(inputs, progress)
        self._goals = goals_of(inputs.scenario)

    def run(
        self,
        trial: Trial,
        start: Callable[[Path], Launched],
        judged: Trial | None = None,
        order: int = 0,
        terms: Terms | None = None,
    ) -> Trial:
        """`trial`, finished. `start` launches its engine, logging to the folder it is given. `judged` is a trial whose
        quality holds for this one, if the launched engine is the same. `order` numbers the orders in which the requests
        come, `terms` are what it is raced on. Raises TrialInterrupted on Ctrl-C, EnvironmentFault on a full disk."""
        phase_s: dict[str, float] = {}
        try:
            self._loads.prepare(order, racing(terms, self._writer.layout, self._goals) if terms is not None else None)
            return self._measure(trial, start, phase_s, judged, drives_largest=order == FIRST_ROUND)
        except EngineError as error:
            outcome: TrialOutcome = outcome_of(error)
            return replace(trial, outcome=outcome, reason=str(error), phase_s=phase_s)
        except MeasurementInvalid as error:
            return replace(trial, outcome="client_limited", reason=str(error), phase_s=phase_s)
        except (KeyboardInterrupt, Interrupted) as error:
            raise TrialInterrupted(replace(trial, reason="stopped by the user", phase_s=phase_s)) from error

    def _measure(
        self,
        trial: Trial,
        start: Callable[[Path], Launched],
        phase_s: dict[str, float],
        judged: Trial | None,
        *,
        drives_largest: bool,
    ) -> Trial:
        workdir = self._writer.layout.logs(trial.trial_id)
        workdir.mkdir(parents=True, exist_ok=True)
        self._progress.on_phase(Phase(name=LAUNCH))
        launching_ns = self._clock.now_ns()
        with start(workdir) as engine:
            phase_s["launch"] = (self._clock.now_ns() - launching_ns) / NS_PER_S
            facts = engine.facts
            chat = chat_facts(engine.endpoint, self._inputs.scenario.workload, self._inputs.token_counts)
            trial = replace(_as_reported(trial, facts), notes=facts.notes, chat=chat)
            check_kept(engine.endpoint, self._inputs, trial.candidate, engine.failure)
            quality = inherited(judged, facts) if judged is not None else None
            asked = NOTHING_ASKED
            if quality is None:
                with self._timed("quality", phase_s):
                    asked = ask_quality_prompts(engine, self._inputs, trial.candidate, self._progress)
                if (died := engine.failure()) is not None:
                    return _died(trial, died, phase_s, self._judge(asked))
            with self._timed("load", phase_s):
                served = self._served(trial.candidate)
                loaded = self._loads.run(engine, trial.candidate.engine, workdir, phase_s["launch"], served)
            driven, is_too_large = "", False
            if drives_largest and engine.failure() is None:
                with self._timed(PHASE, phase_s):
                    driven, is_too_large = self._drive_largest(engine, trial.candidate)
            died = engine.failure()
            trial = replace(trial, phase_s=phase_s, probes=loaded.probes)
        if quality is None:
            judging_ns = self._clock.now_ns()
            quality = self._judge(asked)  # the engine has stopped: the judge may need its memory
            phase_s["quality"] += (self._clock.now_ns() - judging_ns) / NS_PER_S
        trial = replace(trial, quality=quality)
        # Read again: an engine may know more once it has ended (CloudWatch, what it cost).
        facts = engine.facts
        trial = replace(trial, notes=(*facts.notes, *([driven] if driven else [])))
        self._keep(trial.trial_id, loaded, asked)
        if died is not None:
            return _died(trial, died, phase_s, quality)
        window = replace(loaded.window, summary=loaded.window.summary.doubted(crashed(facts.crashes)))
        trial = self._conclude(trial, replace(loaded, window=window))
        return replace(trial, violations=(*trial.violations, driven)) if is_too_large else trial

    def _drive_largest(self, engine: RunningEngine, candidate: Candidate) -> tuple[str, bool]:
        longest_of = partial(self._loads.longest, engine.endpoint)
        return drive_largest(engine, self._inputs, candidate, self._progress, longest_of)

    def _conclude(self, trial: Trial, loaded: Loaded) -> Trial:
        window, judged = loaded.window, loaded.judged(asked_levels(self._goals))
        parts = int(str(this_machine().facts.get("split_into", 1)))
        summary = with_cost(self._doubted(trial, loaded), self._inputs.scenario.cost, trial.candidate, parts)
        summary = with_memory_reads(summary, trial, window, self._served(trial.candidate).folder)
        # What a GPU engine's run could not be told about its GPU; on a CPU nobody asked.
        missing = window.use.unavailable if trial.candidate.device.startswith("cuda") else ()
        load_notes = window.result.notes
        for by_time in self._why_by_time(judged):
            self._progress.note(f"{trial.trial_id}: {by_time}")
            load_notes = (*load_notes, by_time)
        probing = (window.racing.terms.probe_why,) if window.racing is not None else ()
        trial = replace(trial, outcome="ok", summary=summary, notes=(*trial.notes, *missing, *load_notes, *probing))
        if window.limited:
            return replace(trial, outcome="client_limited", reason=window.limited)
        if window.racing is not None and window.racing.race is not None:
            race = window.racing.race
            return replace(trial, outcome="ended_early", reason=why_ended(race), race=race)
        if window.racing is not None and window.racing.broken:
            broken = window.racing.broken
            return replace(trial, outcome="ended_early", reason=broken, violations=(broken,))
        return replace(trial, violations=(*self._goals.violations(trial), *why_void(judged)))

    def _why_by_time(self, judged: Sequence[tuple[Level | None, Window]]) -> list[str]:
        """Which of these loads ended by time before as many requests as wanted were sent."""
        workload, found = self._inputs.scenario.workload, []
        for level, window in judged:
            load = workload.load if level is None else workload.load.at(level)
            sent = sum(not record.is_warmup for record in window.result.records)
            is_counted = not isinstance(load, Open) or load.is_counted
            if is_counted and not window.result.stopped and sent < workload.requests:
                found.append(
                    f"{at(level)}ended by time, not by count: {sent} of {workload.requests} requests within "
                    f"max_duration_s = {workload.max_duration_s:g}"
                )
        return found

    def _doubted(self, trial: Trial, loaded: Loaded) -> TrialSummary:
        """The summary, doubted where the server may know prompts already, from an earlier level, load or probe too."""
        candidate = trial.candidate
        if not traits(candidate.engine).caches_prompts(candidate.options):
            return loaded.window.summary
        texts = {prompt.prompt_id: prompt.text for prompt in self._inputs.prompts}
        texts |= self._loads.as_they_begin(loaded.records)
        before = [prompt.prompt_id for prompt in self._inputs.quality_prompts if trial.is_judged]
        repeated = repeated_prompts(loaded.records, texts, before)
        return loaded.window.summary.doubted([Doubt(kind="repeated_prompts", sentence=repeated)] if repeated else [])

    def _served(self, candidate: Candidate) -> ServedModel:
        """What a server that somebody else started serves is known only where the scenario names the model."""
        is_known = self._inputs.scenario.model is not None or not traits(candidate.engine).is_elsewhere
        return ServedModel(
            folder=self._inputs.model_dir if is_known else None,
            empty_ids=empty_ids(self._reference),
            answered_ids=frozenset(self._reference),
            ask_reference=self._further if self._reference else None,
        )

    def _keep(self, trial_id: str, loaded: Loaded, asked: Answers) -> None:
        """Raw records, answers and telemetry; of several windows the others' too, as '<trial>.probe<n>'."""
        levels = {
            trial_id if probe.is_own else f"{trial_id}.probe{probe.number}": str(probe.level) for probe in loaded.probes
        }
        windows = {trial_id: loaded.window, **{f"{trial_id}.probe{n}": each for n, each in loaded.others.items()}}
        for name, window in windows.items():
            self._writer.write_requests(name, window.result.records, levels.get(name, ""))
            self._writer.write_telemetry(name, window.telemetry)
            if window.engine_metrics.scrapes:
                self._writer.write_engine_metrics(name, window.engine_metrics.columns())
        texts = {**loaded.window.result.outputs, **{f"q:{k}": v for k, v in asked.texts.items()}}
        self._writer.write_outputs(trial_id, texts, keeps_texts=self._inputs.scenario.keep_texts)

    def _judge(self, asked: Answers) -> QualityReport:
        rule, prompts = self._inputs.scenario.quality, self._inputs.quality_prompts
        return judge(
            prompts,
            asked.texts,
            self._reference,
            QualityRule(
                max_exact_match_drop=rule.max_exact_match_drop,
                min_reference_match=rule.min_reference_match,
                is_reference_served=rule.reference is not None,
                max_logprob_drop=rule.max_logprob_drop,
            ),
            nonfinite=asked.nonfinite,
            drops=None if has_right_answers(prompts, self._reference) else self._drops(asked),
        )

    def _drops(self, asked: Answers) -> LogprobDrops | None:
        """What the answers lose under the reference; None where there is no reference at all."""
        return self._scorer.drops(asked) if self._reference else None

    @contextmanager
    def _timed(self, name: str, phase_s: dict[str, float]) -> Iterator[None]:
        self._progress.on_phase(Phase(name=name))
        begin_ns = self._clock.now_ns()
        try:
            yield
        finally:
            phase_s[name] = (self._clock.now_ns() - begin_ns) / NS_PER_S


def begun(candidate: Candidate, number: int, trial_id: str) -> Trial:
    """The record a trial starts as; whatever ends it early only replaces the outcome."""
    here = this_machine()
    return Trial(
        trial_id=trial_id,
        number=number,
        candidate=candidate,
        outcome="interrupted",
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=here.machine_id,
        machine_class=here.machine_class,
    )


def _as_reported(trial: Trial, facts: EngineFacts) -> Trial:
    """The trial with what the engine reports after its start."""
    return replace(
        trial,
        effective_dtype=facts.effective_dtype,
        versions=facts.versions,
        notes=tuple(facts.notes),
        converted_dir=facts.converted_dir,
        served_model=facts.served_model,
        queue_order=facts.queue_order,
    )


def _died(trial: Trial, error: EngineError, phase_s: Mapping[str, float], quality: QualityReport | None) -> Trial:
    outcome: TrialOutcome = "out_of_memory" if isinstance(error, OutOfMemory) else "crashed"
    return replace(trial, outcome=outcome, reason=str(error), phase_s=phase_s, quality=quality)
