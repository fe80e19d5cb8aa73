"""The check of the model folder that a scenario names: config, tensors of the weights, tokenizer and context."""

from __future__ import annotations

from pathlib import Path

from engines.models.checkpoint.special_ids import special_ids
from engines.models.folder import check_model_folder
from engines.models.tokenizer import FAST_FILE, load_fast
from harness.scenario.resolve import BUNDLED, ResolvedScenario
from harness.space.capabilities import folder_here
from harness.space.context import check_context


def check_model(resolved: ResolvedScenario) -> None:
    """Nothing, where the model needs a download or no engine reads it. Raises ModelInvalid for a damaged folder, and
    ScenarioError where the model's context is too short for a prompt.

    The weights' values are not read, and no model library is imported: a tokenizer without tokenizer.json, which only
    transformers reads, is left to the engine."""
    folder = folder_here(resolved) if resolved.scenario.reads_model else None
    if folder is None:
        return
    if not folder.is_relative_to(BUNDLED):  # which would import numpy, for files that this project's tests check
        check_folder(folder)
    check_context(resolved, folder)


def check_folder(folder: Path) -> None:
    """Raises ModelInvalid for a damaged model folder."""
    check_model_folder(folder)
    special_ids(folder)
    if (folder / FAST_FILE).is_file():
        load_fast(folder / FAST_FILE)
