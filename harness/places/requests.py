"""The requests that a search sends to a place, and its answers, as JSON: text is all that travels, never code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.measure.machine.machine_class import Machine
from harness.records import Candidate, Trial
from harness.scenario.resolve import BUNDLED, ResolvedScenario, resolved_from_dict
from harness.trial.reference import Reference
from harness.tune.racing import Terms

Verb = Literal["describe", "capabilities", "join", "measure"]
"""What a place can be asked: who it is (Described), what an engine can do there, to prove that it would answer the same
question (Joined), and to run a trial (an archive)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The scenario as it was resolved where the search runs; `bundled` is where the bundled models are there."""

    scenario: Mapping[str, Any]
    bundled: str

    @classmethod
    def of(cls, resolved: ResolvedScenario) -> Question:
        """The question of a scenario that was resolved here."""
        return cls(scenario=resolved.as_dict(), bundled=str(BUNDLED))

    def resolved(self) -> ResolvedScenario:
        """The scenario on this machine: the same paths, but for the bundled files. Raises StaleScenario."""
        files: Mapping[str, Any] = _rebased(self.scenario["resolved"], self.bundled)
        return resolved_from_dict({**self.scenario, "resolved": files})


def _rebased(value: Any, bundled: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _rebased(each, bundled) for name, each in value.items()}
    if isinstance(value, str) and (value == bundled or value.startswith(f"{bundled}/")):
        return str(BUNDLED) + value[len(bundled) :]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A machine as it describes itself. `holder` is the process that measures on it, '' while none does."""

    machine: Machine
    holder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A machine with its proof that it would answer the same question, and the versions of the engines there."""

    machine: Machine
    proof: Mapping[str, str]
    engines: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineThere:
    """An engine to ask for its capabilities: its name, and the environment, command and image of its block."""

    engine: str
    python: str = ""
    command: str = ""
    image: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One attempt at one order. Its `token` comes back with the archive. `left_s` is what is left of the search.

    `started` is the one of the `written` files (name -> base64) from which the server is started, where a
    recommendation is verified; '' where the candidate is launched. `prefix` begins the trial's id. `terms` are what it
    is raced on, `raced` (base64) the stored requests of the trial that it races, which this machine measured.
    """

    token: str
    question: Question
    reference: Reference
    number: int
    candidate: Candidate
    left_s: float
    judged: Trial | None = None
    repetition: int = 0
    written: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    prefix: str = ""
    terms: Terms | None = None
    raced: str = ""
