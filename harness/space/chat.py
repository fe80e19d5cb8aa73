"""The prompts of a scenario as they reach the model: as they are, or in a chat, inside the model's chat template."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid, RequestInvalid
from engines.models.chat_template import ChatTemplate, special_tokens
from engines.models.checkpoint.kind import model_kind, template_text
from engines.models.random_weights.shapes import SHAPES
from engines.models.tokenizer import FAST_FILE, load_fast
from harness.errors import ScenarioError
from harness.load.corpus.spans import Around
from harness.load.plan import OwnHistory
from harness.load.prompts.prompts_file import read_prompts
from harness.records import Prompt
from harness.scenario.resolve import ResolvedScenario


def prompts_of(resolved: ResolvedScenario, folder: Path | None) -> tuple[Prompt, ...]:
    """The scenario's prompts; in a chat each with what the template of the model in `folder` makes of its messages.
    Without a folder nothing is known of the model, and its server applies the template alone.

    Raises ScenarioError: a broken file, a model without chat template, or a template that refuses a prompt.
    """
    is_chat = resolved.scenario.workload.chat
    prompts = read_prompts(resolved.prompts_path, is_chat=is_chat)
    if is_chat and resolved.model.kind == "shape" and not SHAPES[resolved.model.value].has_chat_template:
        raise _without_template(resolved, f"shape {resolved.model.value}")
    if not is_chat or folder is None:
        return prompts
    where, template = f"{resolved.path}: workload.chat: ", _template(resolved, folder)
    return tuple(
        replace(prompt, rendered=_rendered(template, prompt, f"{where}{resolved.prompts_path}: prompt "))
        for prompt in prompts
    )


def conversations_of(
    resolved: ResolvedScenario, folder: Path | None, prompts: Sequence[Prompt]
) -> tuple[tuple[Prompt, ...], ...]:
    """The turns of each prompt: one for every question and for the last of tools' answers, with all that the file
    has before it. () where the scenario sends no conversations. Raises ScenarioError: a template that refuses a
    turn."""
    if resolved.scenario.workload.conversations is None:
        return ()
    template = _template(resolved, folder) if folder is not None else None
    where = f"{resolved.path}: workload.conversations: {resolved.prompts_path}: prompt "

    def turn(prompt: Prompt, end: int, number: int) -> Prompt:
        messages = prompt.turns[: end + 1]
        text = "\n\n".join(content for _, content in messages)
        one = replace(
            prompt, prompt_id=f"{prompt.prompt_id}#{number}", text=text, messages=messages, rendered=None,
            given=prompt.given[: end + 1],
        )  # fmt: skip
        return one if template is None else replace(one, rendered=_rendered(template, one, where))

    return tuple(
        tuple(turn(prompt, end, number) for number, end in enumerate(_questions(prompt), 1)) for prompt in prompts
    )


def own_history_of(resolved: ResolvedScenario, folder: Path | None, prompts: Sequence[Prompt]) -> OwnHistory | None:
    """By what template turns become texts once the server has answered the ones before; None where the file's answers
    are their history. Raises ScenarioError where a tool has answered the file's own."""
    conversations = resolved.scenario.workload.conversations
    if conversations is None or conversations.history == "recorded":
        return None
    if (with_tools := next((prompt.prompt_id for prompt in prompts if prompt.given), None)) is not None:
        raise ScenarioError(
            f"{resolved.path}: workload.conversations.history: expected recorded beside tool calls, whose answers "
            f"fit the file's calls only, got {conversations.history!r} and {with_tools!r} of {resolved.prompts_path}; "
            "take it out, or write recorded"
        )
    history = OwnHistory(is_kept=conversations.history == "server")
    if folder is None:
        return history
    return replace(history, template=template_text(folder), special_tokens=special_tokens(folder))


def _questions(prompt: Prompt) -> list[int]:
    """Places of the messages that ask: those of the user, and the last tool's answer before the model's next one."""
    roles = [role for role, _ in prompt.turns]
    behind = [*roles[1:], "assistant"]
    return [
        place
        for place, (role, after) in enumerate(zip(roles, behind, strict=True))
        if role == "user" or (role == "tool" and after == "assistant")
    ]


def around_of(resolved: ResolvedScenario, folder: Path | None) -> Around | None:
    """What the chat template of the model in `folder` writes around one user message; None where no text is cut for a
    chat, or no model is known. Raises ScenarioError."""
    if not resolved.scenario.workload.chat or not resolved.scenario.workload.cuts_inputs or folder is None:
        return None
    before, mark, behind = _template(resolved, folder).render([{"role": "user", "content": _MARK}]).partition(_MARK)
    if not mark or _MARK in behind:
        raise ScenarioError(
            f"{resolved.path}: workload.chat: expected a chat template that writes a message as it is beside inputs of "
            f"a length, that of {folder} changes it; remove workload.chat, or the lengths"
        )
    return before, behind


_MARK = "one-message-of-a-user"
"""Stands for a text while the template is asked what it writes around it."""


def _template(resolved: ResolvedScenario, folder: Path) -> ChatTemplate:
    if not model_kind(folder).is_decoder or not template_text(folder):
        raise _without_template(resolved, str(folder))
    try:
        return ChatTemplate.load(folder)
    except ModelInvalid as error:
        raise ScenarioError(f"{resolved.path}: workload.chat: {error}") from None


def _without_template(resolved: ResolvedScenario, model: str) -> ScenarioError:
    what = f"expected a decoder-only model with a chat template, {model} has none; remove workload.chat"
    return ScenarioError(f"{resolved.path}: workload.chat: {what}")


def token_counts(prompts: Sequence[Prompt], folder: Path) -> tuple[int, ...]:
    """Tokens of each prompt by the tokenizer.json of the model in `folder`, () where it has none. Raises ModelInvalid
    for a damaged one."""
    path = folder / FAST_FILE
    if not path.is_file() or not prompts:
        return ()
    texts, adds_special = [prompt.model_text for prompt in prompts], prompts[0].rendered is None
    return tuple(len(one.ids) for one in load_fast(path).encode_batch(texts, add_special_tokens=adds_special))


def _rendered(template: ChatTemplate, prompt: Prompt, where: str) -> str:
    messages = [_for_template(message) for message in prompt.sent_messages]
    try:
        return template.render(messages)
    except RequestInvalid as error:
        others = [message for message in messages if message["role"] != "system"]
        advice = ""
        if len(others) < len(messages) and _takes(template, others):
            advice = "; without the system message it takes them: leave it out, or put its text into the first question"
        raise ScenarioError(f"{where}{prompt.prompt_id!r}: {error}{advice}") from None


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """The message as servers hand it to a template: arguments of tool calls, which are JSON in a text, as objects."""
    calls = []
    for call in message.get("tool_calls", ()):
        with contextlib.suppress(ValueError, TypeError):
            call = {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        calls.append(call)
    return {**message, "tool_calls": calls} if calls else message


def _takes(template: ChatTemplate, messages: Sequence[Mapping[str, Any]]) -> bool:
    try:
        template.render(messages)
    except RequestInvalid:
        return False
    return True
