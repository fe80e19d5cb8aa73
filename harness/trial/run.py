"""One trial end to end: launch, check the answers, load, measure, stop; the only place that launches engines.

Whatever happens, `TrialRunner.run` returns a Trial (an outcome with its reason), except when the user interrupts:
then `TrialInterrupted` carries the record of the trial in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from engines.api import EngineSpec, RunningEngine
from engines.errors import EngineError, OutOfMemory
from engines.launching import engine_here, load_engine
from harness.clock import Clock
from harness.cost.price import with_cost
from harness.cost.spending import Spending
from harness.errors import Interrupted, MeasurementInvalid, outcome_of
from harness.quality.equivalence import QualityRule, judge
from harness.records import Candidate, Prompt, QualityReport, Trial, TrialOutcome
from harness.store.writer import RunWriter
from harness.trial.ask_prompts import Answers, ask
from harness.trial.inputs import Checkout, Phase, TrialInputs
from harness.trial.load_window import Loaded, Loads, Window
from harness.tune.objective import violations
from harness.units import NS_PER_S

READY_TIMEOUT_S = 600.0
"""How long an engine may take to convert, load and answer /ping; the first export of a large model takes minutes."""


__all__ = ["Checkout", "Phase", "TrialInputs", "TrialInterrupted", "TrialRunner", "spec_of"]

_Launch = AbstractContextManager[RunningEngine]


class TrialInterrupted(Interrupted):
    """The user stopped the trial in flight; `trial` is its record."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(f"interrupted during trial {trial.trial_id}")
        self.trial = trial


class TrialRunner:
    """Runs candidates one at a time. Raw records, answers and logs go to the run folder of `writer`."""

    def __init__(self, inputs: TrialInputs, writer: RunWriter, clock: Clock, on_phase: Callable[[Phase], None]) -> None:
        self._inputs = inputs
        self._writer = writer
        self._clock = clock
        self._on_phase = on_phase
        self._reference: Mapping[str, str] = {}
        self.spending = Spending(inputs.scenario.cost, inputs.scenario.workload.max_duration_s)
        self._loads = Loads(inputs, on_phase)

    def use_reference(self, answers: Mapping[str, str]) -> None:
        """Compare every following trial with these answers of the fp32 reference (prompt_id -> text)."""
        self._reference = answers

    def run(self, candidate: Candidate, number: int, prefix: str = "") -> Trial:
        """The finished trial of `candidate`. Raises TrialInterrupted on Ctrl-C, EnvironmentFault on a full disk.

        Its id begins with `prefix`, by default t<number>."""
        trial = _begun(candidate, number, f"{prefix or f't{number:04d}'}-{candidate.candidate_id}")
        begin_ns = self._clock.now_ns()
        try:
            return self._run(trial, lambda workdir: _launch(self._spec(candidate), workdir))
        finally:
            self.spending.note(candidate, (self._clock.now_ns() - begin_ns) / NS_PER_S)

    def run_file(self, candidate: Candidate, properties_path: Path, number: int) -> Trial:
        """Like `run`, but the server is started from a written serving.properties; trial id 'verify-...'."""
        from engines.launching import launch_file

        return self._run(
            _begun(candidate, number, f"verify-{candidate.candidate_id}"),
            lambda workdir: launch_file(properties_path, self._inputs.model_dir, workdir, READY_TIMEOUT_S),
        )

    def answers(self, candidate: Candidate) -> Answers:
        """What `candidate` answers to the quality prompts; raises EngineError when it cannot run."""
        workdir = self._writer.layout.logs("reference")
        with _launch(self._spec(candidate), workdir) as engine:
            return self._ask(engine, candidate)

    def _spec(self, candidate: Candidate) -> EngineSpec:
        checkout = self._inputs.checkout
        spec = self.spending.limited(spec_of(candidate, self._inputs.model_dir), candidate)
        if checkout is None:
            return spec
        return replace(spec, source_root=checkout.root, python=checkout.python or spec.python)

    def _run(self, trial: Trial, launch: Callable[[Path], _Launch]) -> Trial:
        phase_s: dict[str, float] = {}
        try:
            self._loads.prepare()
            return self._measure(trial, launch, phase_s)
        except EngineError as error:
            outcome: TrialOutcome = outcome_of(error)
            return replace(trial, outcome=outcome, reason=str(error), phase_s=phase_s)
        except MeasurementInvalid as error:
            return replace(trial, outcome="client_limited", reason=str(error), phase_s=phase_s)
        except (KeyboardInterrupt, Interrupted) as error:
            raise TrialInterrupted(replace(trial, reason="stopped by the user", phase_s=phase_s)) from error

    def _measure(self, trial: Trial, launch: Callable[[Path], _Launch], phase_s: dict[str, float]) -> Trial:
        workdir = self._writer.layout.logs(trial.trial_id)
        workdir.mkdir(parents=True, exist_ok=True)
        self._on_phase(Phase(name="launch"))
        launching_ns = self._clock.now_ns()
        with launch(workdir) as engine:
            phase_s["launch"] = (self._clock.now_ns() - launching_ns) / NS_PER_S
            facts = engine.facts
            trial = replace(
                trial, effective_dtype=facts.effective_dtype, versions=facts.versions, notes=tuple(facts.notes)
            )
            with self._timed("quality", phase_s):
                asked = self._ask(engine, trial.candidate)
            quality = self._judge(asked)
            if (died := engine.failure()) is not None:
                return _died(trial, died, phase_s, quality)
            with self._timed("load", phase_s):
                loaded = self._loads.run(engine, workdir, phase_s["launch"])
            died = engine.failure()
            trial = replace(trial, phase_s=phase_s, quality=quality, probes=loaded.probes)
        # Read again: an engine may know more once it has ended (CloudWatch, what it cost).
        trial = replace(trial, notes=tuple(engine.facts.notes))
        self._keep(trial.trial_id, loaded, asked)
        if died is not None:
            return _died(trial, died, phase_s, quality)
        return self._conclude(trial, loaded.window)

    def _conclude(self, trial: Trial, window: Window) -> Trial:
        summary = with_cost(window.summary, self._inputs.scenario.cost, trial.candidate)
        # What a GPU engine's run could not be told about its GPU; on a CPU nobody asked.
        missing = window.use.unavailable if trial.candidate.device.startswith("cuda") else ()
        told = window.result.notes
        trial = replace(trial, outcome="ok", summary=summary, notes=(*trial.notes, *missing, *told))
        if window.limited:
            return replace(trial, outcome="client_limited", reason=window.limited)
        return replace(trial, violations=violations(trial, self._inputs.scenario))

    def _keep(self, trial_id: str, loaded: Loaded, asked: Answers) -> None:
        """Raw records, answers and telemetry; of a maximum-rate search the other probes' too, as '<trial>.probe<n>'."""
        windows = {trial_id: loaded.window, **{f"{trial_id}.probe{n}": each for n, each in loaded.others.items()}}
        for name, window in windows.items():
            self._writer.write_requests(name, window.result.records)
            self._writer.write_telemetry(name, window.telemetry)
        texts = {**loaded.window.result.outputs, **{f"q:{k}": v for k, v in asked.texts.items()}}
        self._writer.write_outputs(trial_id, texts)

    def _judge(self, asked: Answers) -> QualityReport:
        rule = self._inputs.scenario.quality
        return judge(
            self._quality_prompts(),
            asked.texts,
            self._reference,
            QualityRule(
                max_exact_match_drop=rule.max_exact_match_drop,
                min_reference_match=rule.min_reference_match,
            ),
            nonfinite=asked.nonfinite,
        )

    def _quality_prompts(self) -> tuple[Prompt, ...]:
        return self._inputs.prompts[: self._inputs.scenario.quality.prompts]

    def _ask(self, engine: RunningEngine, candidate: Candidate) -> Answers:
        prompts = self._quality_prompts()
        workload = self._inputs.scenario.workload
        return ask(
            engine,
            prompts,
            parameters=workload.parameters.model_dump(),
            concurrency=max(1, candidate.workers * candidate.batch_size),
            template=workload.template,
            on_progress=lambda done: self._on_phase(Phase(name="quality", done=done, total=len(prompts))),
        )

    @contextmanager
    def _timed(self, name: str, phase_s: dict[str, float]) -> Iterator[None]:
        self._on_phase(Phase(name=name))
        begin_ns = self._clock.now_ns()
        try:
            yield
        finally:
            phase_s[name] = (self._clock.now_ns() - begin_ns) / NS_PER_S


def _begun(candidate: Candidate, number: int, trial_id: str) -> Trial:
    """The record a trial starts as; whatever ends it early only replaces the outcome."""
    return Trial(
        trial_id=trial_id,
        number=number,
        candidate=candidate,
        outcome="interrupted",
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def spec_of(candidate: Candidate, model_dir: Path) -> EngineSpec:
    """The engine's side of a candidate."""
    return EngineSpec(
        engine=candidate.engine, model_dir=model_dir, python=candidate.python or None, **candidate.values()
    )


def _launch(spec: EngineSpec, workdir: Path) -> _Launch:
    # Another checkout is served whole by its own interpreter; what this environment lacks does not matter there.
    engine = engine_here(spec.engine) if spec.source_root else load_engine(spec.engine, spec.python)
    return engine.launch(spec, workdir, READY_TIMEOUT_S)


def _died(trial: Trial, error: EngineError, phase_s: Mapping[str, float], quality: QualityReport | None) -> Trial:
    outcome: TrialOutcome = "out_of_memory" if isinstance(error, OutOfMemory) else "crashed"
    return replace(trial, outcome=outcome, reason=str(error), phase_s=phase_s, quality=quality)
