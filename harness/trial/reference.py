"""Reference answers of a run, in fp32 or by a server that the scenario names: asked once, kept, never assumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engines.cache_folder import cache_root
from engines.errors import EngineError
from engines.launching import load_engine
from engines.models.cache import model_digest
from engines.models.memory import folder_size, reference_dtype
from engines.registry import ATTACHED_ENGINE, REFERENCE_ENGINE
from harness.errors import EnvironmentFault
from harness.records import Candidate, Prompt
from harness.scenario.resolve import NO_FP32
from harness.space.memory_text import REFERENCE_BATCH_SIZE
from harness.store.disk import write_text
from harness.store.layout import RunLayout
from harness.trial.ask_prompts import Answers, ask, concurrency_of
from harness.trial.endpoint_form import quality_form
from harness.trial.inputs import TrialInputs
from harness.trial.launch import launch, ready_timeout_s, shown, spec_of
from harness.trial.progress import Phase, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Answers of the reference (prompt_id -> text) and who gave them; without one there are none, `source` why.
    `token_ids` are there where the reference is the model itself, computed in `dtype`."""

    answers: Mapping[str, str]
    source: str
    is_available: bool = True
    token_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtype: str = "fp32"


def reference_answers(
    inputs: TrialInputs, layout: RunLayout, progress: Progress, known: Reference | None = None
) -> Reference:
    """The reference of a run: what an earlier start of the run stored, else `known`, else asked now; stored.

    A scenario of engines without a model is its own reference. When the reference engine is missing, the comparison is
    unavailable and reports it; exact match against the task references still works. Where the scenario keeps no texts
    nothing is stored, and each start of the run asks again. Raises EnvironmentFault.
    """
    path = layout.reference_json
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        reference = _read(stored)
    else:
        reference = known or _asked(inputs, layout, progress)
        if reference.is_available and inputs.scenario.keep_texts:
            write_text(path, _text_of(reference))
    if known is None:
        progress.note(f"reference: {reference.source}")
    return reference


def _text_of(reference: Reference) -> str:
    fields: dict[str, object] = {"source": reference.source, "answers": dict(reference.answers)}
    if reference.token_ids:
        fields |= {"token_ids": dict(reference.token_ids), "dtype": reference.dtype}
    return json.dumps(fields)


def _read(stored: Mapping[str, Any]) -> Reference:
    """Runs stored before have texts alone."""
    ids = {prompt_id: tuple(row) for prompt_id, row in stored.get("token_ids", {}).items()}
    return Reference(
        answers=stored["answers"], source=stored["source"], token_ids=ids, dtype=stored.get("dtype", "fp32")
    )


def _asked(inputs: TrialInputs, layout: RunLayout, progress: Progress) -> Reference:
    served = inputs.scenario.quality.reference
    if served is None and not inputs.scenario.knows_model:
        why = "none: the attached server's model is not known here; name it by model: to compare its answers"
        return Reference(answers={}, source=why, is_available=False)
    if served is None and inputs.reference_dir is None:
        return Reference(answers={}, source=f"none: {NO_FP32}", is_available=False)
    candidate = _reference_candidate(inputs)
    source = served.source if served else f"{candidate.engine} {candidate.dtype}"
    if candidate.dtype != "fp32":
        progress.note(f"fp32 does not fit this machine's memory: the reference is {source}, the checkpoint's dtype")
    progress.note(f"asking the reference, {source}")
    availability = load_engine(candidate.engine).probe()
    if not availability.is_available:
        return Reference(answers={}, source=f"unavailable: {availability.reason}", is_available=False)
    kept = None if served else _kept_path(candidate, inputs, availability.versions)
    if kept is not None and (known := _kept(kept)) is not None:
        progress.note(f"its answers are those of an earlier run: same weights, prompts and parameters ({kept})")
        return known
    answers = _answers_of(candidate, source, inputs, inputs.quality_prompts, layout, progress)
    reference = Reference(
        answers=answers.texts,
        source=source + _left_out(answers, len(inputs.quality_prompts), shows_why=inputs.scenario.keep_texts),
        token_ids=answers.token_ids if candidate.engine == REFERENCE_ENGINE and served is None else {},
        dtype=candidate.dtype,
    )
    if kept is not None and not answers.failures and inputs.scenario.keep_texts:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, _text_of(reference))
    return reference


def _kept_path(candidate: Candidate, inputs: TrialInputs, versions: Mapping[str, str]) -> Path | None:
    """Where answers of a model are kept across runs, named by the digest of all that they depend on; None where the
    engine reads no model."""
    if candidate.engine != REFERENCE_ENGINE:
        return None
    parts = (
        model_digest(inputs.reference_dir or inputs.model_dir),
        candidate.dtype,
        sorted(versions.items()),
        sorted(inputs.scenario.workload.parameters.model_dump().items()),
        [(prompt.prompt_id, prompt.model_text) for prompt in inputs.quality_prompts],
    )
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    return cache_root() / "references" / f"{digest}.json"


def _kept(path: Path) -> Reference | None:
    """The answers kept there; None where there are none, or a damaged file."""
    try:
        return _read(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


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


def _left_out(answers: Answers, asked: int, *, shows_why: bool) -> str:
    """'' or how many prompts the reference could not answer."""
    if not answers.failures:
        return ""
    failed = len(answers.failures)
    prompt_id, why = next(iter(answers.failures.items()))
    why = f": {why[:160]}" if shows_why else ""
    return f" ({failed} of {asked} prompts failed there and are not compared, as {prompt_id!r}{why})"


class FurtherAnswers:
    """The reference's answers to prompts beyond those of the quality check, asked when they are first needed."""

    def __init__(self, inputs: TrialInputs, layout: RunLayout, progress: Progress) -> None:
        self._inputs, self._layout, self._progress = inputs, layout, progress
        self._known: dict[str, str | None] = {}

    def __call__(self, prompts: Sequence[Prompt]) -> Mapping[str, str]:
        """Prompt id -> answer; a prompt that the reference cannot answer has none."""
        new = [prompt for prompt in prompts if prompt.prompt_id not in self._known]
        if new:
            candidate = _reference_candidate(self._inputs)
            self._progress.note(f"asking the reference {len(new)} prompts that got an empty answer")
            self._known.update({prompt.prompt_id: None for prompt in new})
            try:
                found = _answers_of(candidate, candidate.engine, self._inputs, new, self._layout, self._progress)
                self._known.update(found.texts)
            except EnvironmentFault as error:
                self._progress.note(f"{error}; empty answers to them count as failed")
        ids = [prompt.prompt_id for prompt in prompts]
        return {prompt_id: text for prompt_id in ids if (text := self._known[prompt_id]) is not None}


def _reference_candidate(inputs: TrialInputs) -> Candidate:
    scenario = inputs.scenario
    if scenario.quality.reference is not None:
        return Candidate(block=0, engine=ATTACHED_ENGINE, options=scenario.quality.reference.options())
    if scenario.reads_model:
        size = folder_size(inputs.reference_dir or inputs.model_dir)
        dtype = reference_dtype(size, psutil.virtual_memory().total)
        return Candidate(block=0, engine=REFERENCE_ENGINE, dtype=dtype, batch_size=REFERENCE_BATCH_SIZE)
    return Candidate(block=0, engine=scenario.space[0].engine)
