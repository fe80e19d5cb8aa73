"""Reference answers of a run in fp32: asked once, kept in the run folder, never assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from engines.errors import EngineError
from engines.launching import load_engine
from engines.registry import REFERENCE_ENGINE
from harness.errors import EnvironmentFault
from harness.records import Candidate
from harness.scenario.schema import Scenario
from harness.store.disk import write_text
from harness.store.layout import RunLayout
from harness.trial.ask_prompts import ask_quality_prompts
from harness.trial.inputs import TrialInputs
from harness.trial.launch import launch, ready_timeout_s, shown, spec_of
from harness.trial.progress import Progress

REFERENCE_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Answers of the fp32 reference (prompt_id -> text) and who gave them; without one there are none, `source` why."""

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
    if not inputs.scenario.knows_model:
        why = "none: the attached server's model is not known here; name it by model: to compare its answers"
        return Reference(answers={}, source=why, is_available=False)
    candidate = _reference_candidate(inputs.scenario)
    progress.note("asking the fp32 reference")
    availability = load_engine(candidate.engine).probe()
    if not availability.is_available:
        return Reference(answers={}, source=f"unavailable: {availability.reason}", is_available=False)
    try:
        spec, timeout_s = spec_of(candidate, inputs.model_dir), ready_timeout_s(inputs.scenario)
        with shown(launch(spec, layout.logs("reference"), timeout_s), progress) as engine:
            answers = ask_quality_prompts(engine, inputs, candidate, progress)
    except EngineError as error:
        raise EnvironmentFault(f"the fp32 reference ({candidate.engine}) could not be asked: {error}") from error
    if answers.failures:
        prompt_id, why = next(iter(answers.failures.items()))
        raise EnvironmentFault(f"the fp32 reference ({candidate.engine}) failed on prompt {prompt_id!r}: {why}")
    return Reference(answers=answers.texts, source=f"{candidate.engine} fp32")


def _reference_candidate(scenario: Scenario) -> Candidate:
    if scenario.reads_model:
        return Candidate(block=0, engine=REFERENCE_ENGINE, batch_size=REFERENCE_BATCH_SIZE)
    return Candidate(block=0, engine=scenario.space[0].engine)
