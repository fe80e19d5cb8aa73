"""Asking a launched engine each quality prompt once, for the answers rather than for the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import httpx

from engines.adapters.api_key import without_key
from engines.api import RunningEngine
from engines.processes.http_look import trusted
from engines.registry import traits
from harness.load.protocol.interface import NoAnswer
from harness.load.protocol.request_form import RequestForm
from harness.records import Candidate, Prompt
from harness.trial.endpoint_form import quality_form
from harness.trial.inputs import TrialInputs
from harness.trial.progress import Phase, Progress

ANSWER_TIMEOUT_S = 120.0
"""For one answer while checking quality; generous, since nothing is timed here."""


SERVED_CONCURRENCY = 8
"""A server with one worker queues them, and one that batches is not asked one prompt after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """An engine's answer: prompt_id -> text; which answers had non-finite scores; which failed, and how; the ids of
    those whose server gives them."""

    texts: Mapping[str, str]
    nonfinite: frozenset[str]
    failures: Mapping[str, str]
    token_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


NOTHING_ASKED = Answers(texts={}, nonfinite=frozenset(), failures={})
"""Of a trial that inherits its quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    prompt_id: str
    text: str | None
    is_nonfinite: bool = False
    failure: str = ""
    token_ids: tuple[int, ...] | None = None


def ask_quality_prompts(
    engine: RunningEngine, inputs: TrialInputs, candidate: Candidate, progress: Progress
) -> Answers:
    """The engine's answers to the prompts that the scenario's quality is judged by, as many at a time as fill it."""
    prompts = inputs.quality_prompts
    return ask(
        engine,
        prompts,
        quality_form(engine.endpoint, inputs.scenario.workload, candidate.engine),
        concurrency=concurrency_of(candidate),
        on_progress=lambda done: progress.on_phase(Phase(name="quality", done=done, total=len(prompts))),
    )


def concurrency_of(candidate: Candidate) -> int:
    """How many prompts fill an engine; of a server that somebody else started, that is not known."""
    filled = candidate.workers * candidate.batch_size
    return max(SERVED_CONCURRENCY, filled) if traits(candidate.engine).is_elsewhere else max(1, filled)


def ask(
    engine: RunningEngine,
    prompts: Sequence[Prompt],
    form: RequestForm,
    *,
    concurrency: int,
    on_progress: Callable[[int], None],
) -> Answers:
    """The engine's answer to every prompt, `concurrency` at a time. Stops early, with failures, if the engine dies."""
    answers: list[_Answer] = []
    key = form.api_key_env
    with (
        httpx.Client(timeout=ANSWER_TIMEOUT_S, trust_env=False, verify=trusted(), headers=form.headers()) as client,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        pending = [pool.submit(_ask_one, client, form, prompt) for prompt in prompts]
        try:
            for done in as_completed(pending):
                answers.append(done.result())
                on_progress(len(answers))
                if answers[-1].failure and engine.failure() is not None:
                    break
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return Answers(
        texts={a.prompt_id: a.text for a in answers if a.text is not None},
        nonfinite=frozenset(a.prompt_id for a in answers if a.is_nonfinite),
        failures={a.prompt_id: without_key(a.failure, key) for a in answers if a.failure},
        token_ids={a.prompt_id: a.token_ids for a in answers if a.token_ids is not None},
    )


def _ask_one(client: httpx.Client, form: RequestForm, prompt: Prompt) -> _Answer:
    try:
        response = client.post(form.address.url, content=form.body((prompt,)))
        if not response.is_success:
            failure = f"HTTP {response.status_code}: {response.text[:200]}"
            return _Answer(prompt_id=prompt.prompt_id, text=None, failure=failure)
        answer = form.read(response.content, (), 1)
    except NoAnswer as error:
        return _Answer(prompt_id=prompt.prompt_id, text=None, failure=f"unreadable answer: {error}")
    except httpx.HTTPError as error:
        return _Answer(prompt_id=prompt.prompt_id, text=None, failure=f"{type(error).__name__}: {error}")
    part = answer.parts[0]
    return _Answer(
        prompt_id=prompt.prompt_id, text=part.text, is_nonfinite=answer.is_nonfinite, token_ids=part.token_ids
    )
