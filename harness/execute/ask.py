"""Sending each prompt once, for the answers rather than for the time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import httpx

from engines.api import Endpoint, RunningEngine
from harness.records import Prompt

ANSWER_TIMEOUT_S = 120.0
"""For one answer while checking quality; generous, since nothing is timed here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What an engine said: prompt_id -> text; which answers had non-finite scores; which failed, and how."""

    texts: Mapping[str, str]
    nonfinite: frozenset[str]
    failures: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    prompt_id: str
    text: str | None
    is_nonfinite: bool = False
    failure: str = ""


def ask(
    engine: RunningEngine,
    prompts: Sequence[Prompt],
    *,
    parameters: Mapping[str, object],
    concurrency: int,
    on_progress: Callable[[int], None],
) -> Answers:
    """The engine's answer to every prompt, `concurrency` at a time. Stops early, with failures, if the engine dies."""
    answers: list[_Answer] = []
    with httpx.Client(timeout=ANSWER_TIMEOUT_S, trust_env=False) as client, ThreadPoolExecutor(concurrency) as pool:
        pending = [pool.submit(_ask_one, client, engine.endpoint, prompt, parameters) for prompt in prompts]
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
        failures={a.prompt_id: a.failure for a in answers if a.failure},
    )


def _ask_one(client: httpx.Client, endpoint: Endpoint, prompt: Prompt, parameters: Mapping[str, object]) -> _Answer:
    is_djl = endpoint.protocol == "djl"
    try:
        if is_djl:
            wanted = {**parameters, "details": True, "return_logprobs": True}
            body: dict[str, object] = {"inputs": prompt.text, "parameters": wanted}
            response = client.post(f"{endpoint.url}/invocations", json=body)
        else:
            body = {"model": endpoint.model_name, "prompt": prompt.text, "temperature": 0}
            body["max_tokens"] = parameters.get("max_new_tokens", 64)
            response = client.post(f"{endpoint.url}/v1/completions", json=body)
    except httpx.HTTPError as error:
        return _Answer(prompt_id=prompt.prompt_id, text=None, failure=f"{type(error).__name__}: {error}")
    if response.status_code != 200:
        failure = f"HTTP {response.status_code}: {response.text[:200]}"
        return _Answer(prompt_id=prompt.prompt_id, text=None, failure=failure)
    return _read_answer(prompt.prompt_id, response.text)


def _read_answer(prompt_id: str, body: str) -> _Answer:
    """Reads DJL's {"generated_text"}, the handlers' {"outputs": [...]}, and OpenAI's {"choices": [{"text"}]}."""
    try:
        answer: Any = json.loads(body)
        answer = answer[0] if isinstance(answer, list) else answer
        if "choices" in answer:
            return _Answer(prompt_id=prompt_id, text=str(answer["choices"][0]["text"]))
        if "outputs" in answer:
            return _Answer(prompt_id=prompt_id, text=str(answer["outputs"][0]))
        details = answer.get("details") or {}
        return _Answer(
            prompt_id=prompt_id, text=str(answer["generated_text"]), is_nonfinite=bool(details.get("nonfinite"))
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return _Answer(prompt_id=prompt_id, text=None, failure=f"unreadable answer ({error!r}): {body[:200]}")
