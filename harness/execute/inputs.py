"""What every trial of a run shares, and what a trial tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.records import Prompt
from harness.scenario.schema import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What a trial is doing now, for progress displays. `done` of `total` counts prompts or requests; `text` is more
    to show, such as the rates of an open loop."""

    name: str
    done: int = 0
    total: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """Another checkout whose `engines` serve instead of this one's, by its own interpreter where it has one."""

    root: Path
    python: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInputs:
    """Everything about a run that every trial shares: read once, before the first launch. `trace_path` is the file of
    a load of kind trace."""

    scenario: Scenario
    model_dir: Path
    prompts: tuple[Prompt, ...]
    checkout: Checkout | None = None
    trace_path: Path | None = None
