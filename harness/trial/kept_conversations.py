"""The check that a server keeps conversations, made before a load whose turns name its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import httpx

from engines.adapters.api_key import without_key
from engines.api import Endpoint
from engines.errors import EngineError, SpecInvalid
from engines.processes.http_look import trusted
from harness.load.protocol.interface import Answer, NoAnswer
from harness.load.protocol.request_form import RequestForm
from harness.records import Candidate, Kept, Prompt
from harness.trial.ask_prompts import ANSWER_TIMEOUT_S
from harness.trial.endpoint_form import quality_form
from harness.trial.inputs import TrialInputs

NEW_TOKENS = 16
"""Of each of the two answers; OpenAI's own API takes no fewer."""
SHOWN = 300
"""Characters of a refusal that a message repeats."""
_ADVICE = "let it store its answers, or write history: own"


def check_kept(
    endpoint: Endpoint,
    inputs: TrialInputs,
    candidate: Candidate,
    failure: Callable[[], EngineError | None] = lambda: None,
) -> None:
    """Asks the first question of a conversation, and again behind its answer, by that one's id; nothing where no server
    is to keep them. Raises `failure()` of an engine that has ended over it, else SpecInvalid where it answers not both,
    or counts no more input tokens for the second (it has forgotten the first), or counts none."""
    if inputs.own_history is None or not inputs.own_history.is_kept:
        return
    try:
        _check(endpoint, inputs, candidate)
    except SpecInvalid:
        if (ended := failure()) is not None:
            raise ended from None
        raise


def _check(endpoint: Endpoint, inputs: TrialInputs, candidate: Candidate) -> None:
    form = quality_form(endpoint, inputs.scenario.workload, candidate.engine)
    where = f"workload.conversations.history: expected a server that keeps conversations, and {form.address.url}"
    question = replace(inputs.conversations[0][0], kept=Kept())
    shows_why = inputs.scenario.keep_texts
    first = _answer(form, question, f"{where} did not answer a first turn", shows_why=shows_why)
    again = _again(question, first)
    second = _answer(form, again, f"{where} did not follow previous_response_id; {_ADVICE}", shows_why=shows_why)
    before, now = first.input_tokens, second.input_tokens
    if before is None or now is None:
        raise SpecInvalid(f"{where} counts no input tokens (usage), so nothing shows that it kept the first turn")
    if now <= before:
        raise SpecInvalid(
            f"{where} ignores previous_response_id: it read {now} tokens in a second turn and {before} in the first; "
            f"{_ADVICE}"
        )


def _again(question: Prompt, answer: Answer) -> Prompt:
    """The same question, asked behind its answer."""
    before = (*question.turns, ("assistant", answer.texts[0]))
    kept = Kept(response_id=answer.response_id, messages=len(before))
    return replace(question, messages=(*before, question.turns[-1]), kept=kept)


def _answer(form: RequestForm, prompt: Prompt, refusal: str, *, shows_why: bool) -> Answer:
    """Raises SpecInvalid that begins with `refusal`; what the server answered may hold the prompt."""
    parameters = {name: value for name, value in form.form.parameters.items() if name != "min_new_tokens"}
    body = form.body((prompt,), {**parameters, "max_new_tokens": NEW_TOKENS})
    try:
        with httpx.Client(trust_env=False, verify=trusted(), headers=form.headers()) as client:
            response = client.post(form.address.url, content=body, timeout=ANSWER_TIMEOUT_S)
        if response.is_success:
            return form.read(response.content, (), 1)
        why = f"HTTP {response.status_code}" + (f": {response.text[:SHOWN]}" if shows_why else "")
    except NoAnswer as error:
        why = str(error) if shows_why else "no answer that can be read; its words are not kept (keep_texts: false)"
    except httpx.HTTPError as error:
        why = f"{type(error).__name__}: {error}"
    raise SpecInvalid(f"{refusal} ({without_key(why, form.api_key_env)})")
