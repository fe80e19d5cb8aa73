"""The fp32 reference answers of a run: asked once, kept in the run folder, never assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.errors import EngineError
from engines.launching import load_engine
from harness.errors import EnvironmentFault
from harness.records import Candidate
from harness.scenario.schema import Scenario
from harness.trial.run import TrialRunner

REFERENCE_ENGINE = "transformers"
"""Hugging Face eager fp32 defines what the model says; every other engine is compared with it."""

REFERENCE_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Answers of the fp32 reference (prompt_id -> text), and who gave them; empty with a reason if nobody could."""

    answers: Mapping[str, str]
    source: str


def reference_answers(scenario: Scenario, runner: TrialRunner, path: Path) -> Reference:
    """The reference of this run: read from `path` if an earlier start of the same run left it, else asked for.

    A scenario of nothing but the fake engine is its own reference. When the reference engine is missing, the
    comparison is unavailable and says so; exact match against the task references still works.
    """
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Reference(answers=stored["answers"], source=stored["source"])
    candidate = _reference_candidate(scenario)
    availability = load_engine(candidate.engine).probe()
    if not availability.is_available:
        return Reference(answers={}, source=f"unavailable: {availability.reason}")
    try:
        answers = runner.answers(candidate)
    except EngineError as error:
        raise EnvironmentFault(f"the fp32 reference ({candidate.engine}) could not be asked: {error}") from error
    if answers.failures:
        prompt_id, why = next(iter(answers.failures.items()))
        raise EnvironmentFault(f"the fp32 reference ({candidate.engine}) failed on prompt {prompt_id!r}: {why}")
    reference = Reference(answers=answers.texts, source=f"{candidate.engine} fp32")
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps({"source": reference.source, "answers": dict(reference.answers)}), encoding="utf-8")
    partial.replace(path)
    return reference


def _reference_candidate(scenario: Scenario) -> Candidate:
    if all(block.engine == "fake" for block in scenario.space):
        return Candidate(block=0, engine="fake")
    return Candidate(block=0, engine=REFERENCE_ENGINE, batch_size=REFERENCE_BATCH_SIZE)
