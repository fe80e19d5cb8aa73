"""Progress events that a trial emits while it runs, and the interface that receives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

LAUNCH = "launch"
"""The name of the phase from the start of an engine until it is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What a trial is doing now. `done` of `total` counts prompts or requests; `text` is more to show, such as the
    rates of an open loop, or what a launch waits for."""

    name: str
    done: int = 0
    total: int = 0
    text: str = ""


class Progress(Protocol):
    """A receiver of progress: a display, or lines on stderr."""

    def on_phase(self, phase: Phase) -> None: ...
    def note(self, text: str) -> None:
        """One line that stays."""
        ...


@dataclass(frozen=True, slots=True)
class Lines:
    """Progress as lines handed to `write`; of the phases only what a launch waits for."""

    write: Callable[[str], None]

    def on_phase(self, phase: Phase) -> None:
        if phase.name == LAUNCH and phase.text:
            self.write(phase.text)

    def note(self, text: str) -> None:
        self.write(text)
