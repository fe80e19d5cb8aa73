"""The check that a model's context holds every prompt of a scenario and its answer, before anything is launched."""

from __future__ import annotations

from pathlib import Path

from engines.models.checkpoint.kind import ModelKind, model_kind, why_too_long
from harness.errors import ScenarioError
from harness.scenario.lengths import longest
from harness.scenario.resolve import ResolvedScenario
from harness.space.capabilities import folder_here
from harness.space.chat import prompts_of, token_counts


def check_context(resolved: ResolvedScenario, folder: Path) -> None:
    """Raises ScenarioError, with the longest prompt's numbers, where the model in `folder` has too short a context, and
    ModelInvalid for a damaged tokenizer; a folder without tokenizer.json is left to the server, which refuses such
    requests."""
    prompts = prompts_of(resolved, folder)
    kind = model_kind(folder)
    if kind.max_positions is None or not (counts := token_counts(prompts, folder)):
        return
    at = max(range(len(counts)), key=counts.__getitem__)
    new = resolved.scenario.workload.parameters.max_new_tokens
    reason = why_too_long(counts[at], new, kind.max_positions)
    if reason:
        raise ScenarioError(
            f"{resolved.path}: workload.parameters.max_new_tokens: prompt {prompts[at].prompt_id!r} of "
            f"{resolved.prompts_path}: {reason}"
        )
    lengths = resolved.scenario.workload.lengths
    if lengths is not None and lengths.input is not None:
        reason = why_too_long(longest(lengths.input), longest(lengths.output) or new, kind.max_positions)
        if reason:
            raise ScenarioError(f"{resolved.path}: workload.lengths: {reason}")


def most_tokens(resolved: ResolvedScenario, kind: ModelKind | None) -> int | None:
    """Tokens of the longest prompt and its answer, which not every engine computes or makes room for; of a prompt that
    cannot be counted one. None for a model that is not decoder-only, or where a trace sets the lengths. Raises as
    `check_context`."""
    if kind is None or not kind.is_decoder or resolved.trace_path is not None:
        return None
    folder, workload = folder_here(resolved), resolved.scenario.workload
    counts = token_counts(prompts_of(resolved, folder), folder) if folder is not None else ()
    prompt, new = max(counts, default=1), workload.parameters.max_new_tokens
    if workload.lengths is None:
        return prompt + new
    asked = (longest(workload.lengths.input) or prompt) + (longest(workload.lengths.output) or new)
    return max(asked, prompt + new)
