"""The check that a model's context holds every prompt of a scenario and its answer, before anything is launched."""

from __future__ import annotations

from pathlib import Path

from engines.models.kind import model_kind, why_too_long
from harness.errors import ScenarioError
from harness.scenario.resolve import ResolvedScenario
from harness.space.chat import prompts_of, token_counts


def check_context(resolved: ResolvedScenario, folder: Path) -> None:
    """Raises ScenarioError, with the longest prompt's numbers, where the model in `folder` has too short a context, and
    ModelInvalid for a damaged tokenizer; a folder without tokenizer.json is left to the server, which refuses such
    requests."""
    prompts = prompts_of(resolved, folder)
    kind = model_kind(folder)
    if kind.max_positions is None or not (counts := token_counts(prompts, folder)):
        return
    longest = max(range(len(counts)), key=counts.__getitem__)
    new = resolved.scenario.workload.parameters.max_new_tokens
    reason = why_too_long(counts[longest], new, kind.max_positions)
    if reason:
        raise ScenarioError(
            f"{resolved.path}: workload.parameters.max_new_tokens: prompt {prompts[longest].prompt_id!r} of "
            f"{resolved.prompts_path}: {reason}"
        )
