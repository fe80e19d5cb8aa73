"""The prompts of a scenario as they reach the model: as they are, or in a chat, inside the model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines.errors import ModelInvalid, RequestInvalid
from engines.models.chat_template import ChatTemplate
from engines.models.kind import model_kind, template_text
from harness.errors import ScenarioError
from harness.load.schedule.prompts import read_prompts
from harness.records import Prompt
from harness.scenario.resolve import ResolvedScenario


def prompts_of(resolved: ResolvedScenario, folder: Path | None) -> tuple[Prompt, ...]:
    """The scenario's prompts; in a chat each with what the template of the model in `folder` makes of it as one user
    message. Without a folder nothing is known of the model, and its server applies the template alone.

    Raises ScenarioError: a broken file, a model without chat template, or a template that refuses a prompt.
    """
    prompts = read_prompts(resolved.prompts_path)
    if not resolved.scenario.workload.chat or folder is None:
        return prompts
    where = f"{resolved.path}: workload.chat: "
    if not model_kind(folder).is_decoder or not template_text(folder):
        raise ScenarioError(
            f"{where}expected a decoder-only model with a chat template, {folder} has none; remove chat"
        )
    try:
        return _rendered(ChatTemplate.load(folder), prompts)
    except (ModelInvalid, RequestInvalid) as error:
        raise ScenarioError(f"{where}{error}") from None


def _rendered(template: ChatTemplate, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    return tuple(
        replace(prompt, rendered=template.render([{"role": "user", "content": prompt.text}])) for prompt in prompts
    )
