"""Reference answers of a run, in fp32 or by a server that the scenario names: asked once, kept, never assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engines.errors import EngineError
from engines.launching import load_engine
from engines.registry import ATTACHED_ENGINE, REFERENCE_ENGINE
from harness.errors import EnvironmentFault
from harness.records import Candidate, Prompt
from harness.scenario.resolve import NO_FP32
from harness.scenario.schema import Scenario
from harness.store.disk import write_text
from harness.store.layout import RunLayout
from harness.trial.ask_prompts import Answers, ask, concurrency_of
from harness.trial.endpoint_form import quality_form
from harness.trial.inputs import TrialInputs
from harness.trial.launch import launch, ready_timeout_s, shown, spec_of
from harness.trial.progress import Phase, Progress

REFERENCE_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Answers of the reference (prompt_id -> text) and who gave them; without one there are none, `source` why."""

    answers: Mapping[str, str]
    source: str
    is_available: bool = True


def reference_answers(
    inputs: TrialInputs, layout: RunLayout, progress: Progress, known: Reference | None = None
) -> Reference:
    """The reference of a run: what an earlier start of the run stored, else `known`, else asked now; stored.

    A scenario of engines without a model is its own reference. When the reference engine is missing, the comparison is
    unavailable and reports it; exact match against the task references still works. Raises EnvironmentFault.
    """
    path = layout.reference_json
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        reference = Reference(answers=stored["answers"], source=stored["source"])
    else:
        reference = known or _asked(inputs, layout, progress)
        if reference.is_available:
            write_text(path, json.dumps({"source": reference.source, "answers": dict(reference.answers)}))
    if known is None:
        progress.note(f"reference: {reference.source}")
    return reference


def _asked(inputs: TrialInputs, layout: RunLayout, progress: Progress) -> Reference:
    served = inputs.scenario.quality.reference
    if served is None and not inputs.scenario.knows_model:
        why = "none: the attached server's model is not known here; name it by model: to compare its answers"
        return Reference(answers={}, source=why, is_available=False)
    if served is None and inputs.reference_dir is None:
        return Reference(answers={}, source=f"none: {NO_FP32}", is_available=False)
    candidate = _reference_candidate(inputs.scenario)
    source = served.source if served else f"{candidate.engine} fp32"
    progress.note(f"asking the reference, {source}")
    availability = load_engine(candidate.engine).probe()
    if not availability.is_available:
        return Reference(answers={}, source=f"unavailable: {availability.reason}", is_available=False)
    answers = _answers_of(candidate, source, inputs, inputs.quality_prompts, layout, progress)
    return Reference(answers=answers.texts, source=source + _left_out(answers, len(inputs.quality_prompts)))


def _answers_of(
    candidate: Candidate,
    source: str,
    inputs: TrialInputs,
    prompts: Sequence[Prompt],
    layout: RunLayout,
    progress: Progress,
) -> Answers:
    """The reference's answers to `prompts`; one that it cannot answer is among the failures. Raises EnvironmentFault:
    it does not start, died, or answered none."""
    try:
        spec, timeout_s = spec_of(candidate, inputs.reference_dir or inputs.model_dir), ready_timeout_s(inputs.scenario)
        # The user's own requests are for the server that is measured.
        plain = inputs.scenario.workload.model_copy(update={"template": None, "request": None})
        with shown(launch(spec, layout.logs("reference"), timeout_s), progress) as engine:
            answers = ask(
                engine,
                prompts,
                quality_form(engine.endpoint, plain, candidate.engine),
                concurrency=concurrency_of(candidate),
                on_progress=lambda done: progress.on_phase(Phase(name="quality", done=done, total=len(prompts))),
            )
            died = engine.failure()
    except EngineError as error:
        raise EnvironmentFault(f"the reference ({source}) could not be asked: {error}") from error
    if answers.failures and (died is not None or not answers.texts):
        prompt_id, why = next(iter(answers.failures.items()))
        raise EnvironmentFault(f"the reference ({source}) failed on prompt {prompt_id!r}: {why}")
    return answers


def _left_out(answers: Answers, asked: int) -> str:
    """'' or how many prompts the reference could not answer."""
    if not answers.failures:
        return ""
    failed = len(answers.failures)
    prompt_id, why = next(iter(answers.failures.items()))
    return f" ({failed} of {asked} prompts failed there and are not compared, as {prompt_id!r}: {why[:160]})"


class FurtherAnswers:
    """The reference's answers to prompts beyond those of the quality check, asked when they are first needed."""

    def __init__(self, inputs: TrialInputs, layout: RunLayout, progress: Progress) -> None:
        self._inputs, self._layout, self._progress = inputs, layout, progress
        self._known: dict[str, str | None] = {}

    def __call__(self, prompts: Sequence[Prompt]) -> Mapping[str, str]:
        """Prompt id -> answer; a prompt that the reference cannot answer has none."""
        new = [prompt for prompt in prompts if prompt.prompt_id not in self._known]
        if new:
            candidate = _reference_candidate(self._inputs.scenario)
            self._progress.note(f"asking the reference {len(new)} prompts that got an empty answer")
            self._known.update({prompt.prompt_id: None for prompt in new})
            try:
                found = _answers_of(candidate, candidate.engine, self._inputs, new, self._layout, self._progress)
                self._known.update(found.texts)
            except EnvironmentFault as error:
                self._progress.note(f"{error}; empty answers to them count as failed")
        ids = [prompt.prompt_id for prompt in prompts]
        return {prompt_id: text for prompt_id in ids if (text := self._known[prompt_id]) is not None}


def _reference_candidate(scenario: Scenario) -> Candidate:
    if scenario.quality.reference is not None:
        return Candidate(block=0, engine=ATTACHED_ENGINE, options=scenario.quality.reference.options())
    if scenario.reads_model:
        return Candidate(block=0, engine=REFERENCE_ENGINE, batch_size=REFERENCE_BATCH_SIZE)
    return Candidate(block=0, engine=scenario.space[0].engine)
