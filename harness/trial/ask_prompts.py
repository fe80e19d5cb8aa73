"""Sending each prompt once, for the answers rather than for the time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import httpx

from engines.adapters.api_key import authorization, without_key
from engines.api import Endpoint, RunningEngine
from harness.load.protocol.answers import BadBody, text_at
from harness.load.protocol.bodies import BodyForm, address_of, filled
from harness.records import Prompt
from harness.scenario.load_kinds import Template

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
    template: Template | None = None,
) -> Answers:
    """The engine's answer to every prompt, `concurrency` at a time. Stops early, with failures, if the engine dies."""
    answers: list[_Answer] = []
    key = engine.endpoint.api_key_env
    headers = {"Content-Type": "application/json", **authorization(key)}
    with (
        httpx.Client(timeout=ANSWER_TIMEOUT_S, trust_env=False, headers=headers) as client,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        if template is None:
            pending = [pool.submit(_ask_one, client, engine.endpoint, prompt, parameters) for prompt in prompts]
        else:
            url = engine.endpoint.url + template.path
            pending = [pool.submit(_ask_template, client, url, prompt, (template, parameters)) for prompt in prompts]
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
    )


def _ask_template(
    client: httpx.Client, url: str, prompt: Prompt, form: tuple[Template, Mapping[str, object]]
) -> _Answer:
    """Like `_ask_one`, in a protocol of the user's own."""
    template, parameters = form
    try:
        body = filled(template.body, prompt.text, parameters)
        response = client.post(url, content=body)
        if response.status_code != 200:
            failure = f"HTTP {response.status_code}: {response.text[:200]}"
            return _Answer(prompt_id=prompt.prompt_id, text=None, failure=failure)
        return _Answer(prompt_id=prompt.prompt_id, text=text_at(response.json(), template.answer))
    except (httpx.HTTPError, BadBody, ValueError) as error:
        return _Answer(prompt_id=prompt.prompt_id, text=None, failure=f"{type(error).__name__}: {error}")


def _ask_one(client: httpx.Client, endpoint: Endpoint, prompt: Prompt, parameters: Mapping[str, object]) -> _Answer:
    form = BodyForm(
        address=address_of(endpoint.url, endpoint.protocol),
        protocol=endpoint.protocol,
        model_name=endpoint.model_name,
        parameters={**parameters, "details": True, "return_logprobs": True}
        if endpoint.protocol == "djl"
        else parameters,
        stream=False,
    )
    try:
        response = client.post(form.address.url, content=form.body((prompt,)))
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
            choice = answer["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            return _Answer(prompt_id=prompt_id, text=str(text))
        if "outputs" in answer:
            return _Answer(prompt_id=prompt_id, text=str(answer["outputs"][0]))
        details = answer.get("details") or {}
        return _Answer(
            prompt_id=prompt_id, text=str(answer["generated_text"]), is_nonfinite=bool(details.get("nonfinite"))
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return _Answer(prompt_id=prompt_id, text=None, failure=f"unreadable answer ({error!r}): {body[:200]}")
