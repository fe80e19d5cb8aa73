"""The requests that a search sends to a place, and its answers, as JSON: text is all that travels, never code."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.measure.machine.machine_class import Machine
from harness.places.brought import Stored, brought_path
from harness.records import Candidate, Trial
from harness.scenario.resolve import BUNDLED, ResolvedScenario, resolved_from_dict
from harness.trial.reference import Reference
from harness.tune.racing import Terms

SEARCH = secrets.token_hex(8)
"""Names the search of this process. It is drawn once, at the import: what one process searches in turn has one name."""

Verb = Literal["describe", "capabilities", "join", "measure", "look", "receive", "install"]
"""What a place can be asked: who it is (Described), what an engine can do there, to prove that it would answer the same
question (Joined), and to run a trial (an archive). To be prepared: what it has (Has), to keep a piece of a file (how
many bytes of it are there now), and to install something (Installed)."""


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
        """The scenario on this machine: the same paths, but for files that were brought and the bundled ones. Raises
        StaleScenario."""
        files: Mapping[str, Any] = self._rebased(self.scenario["resolved"])
        model = files["model"]
        if (brought := brought_path(sent_model(model["kind"], model["value"]))).exists() and model["kind"] in FETCHED:
            files = {**files, "model": {**model, "kind": "path", "value": str(brought)}}
        return resolved_from_dict({**self.scenario, "resolved": files})

    def here(self, path: str) -> Path:
        """Where this machine reads a file that has this path where the search runs."""
        return Path(self._rebased(path))

    def _rebased(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._rebased(each) for name, each in value.items()}
        if not isinstance(value, str) or not value.startswith("/"):
            return value
        if (brought := brought_path(value)).exists():
            return str(brought)
        if value == self.bundled or value.startswith(f"{self.bundled}/"):
            return str(BUNDLED) + value[len(self.bundled) :]
        return value


FETCHED = ("hub", "s3")
"""Kinds of models that each machine can fetch itself."""


def sent_model(kind: str, value: str) -> str:
    """The path under which a model travels: its own, or one made of its name."""
    return f"/{kind}/{value.replace('://', '/')}" if kind in FETCHED else value


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
    """One attempt at one order. Its `token` comes back with the archive. `left_s` is what is left of the search, which
    `search` names: its trials alone are run beside each other on parts of one machine.

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
    search: str = SEARCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file or folder that a trial reads, by its path where the search runs: name -> what each file of the folder must
    be; a single file's name is ''. `is_weights`: the model, which a machine may have fetched itself."""

    path: str
    files: Mapping[str, Stored]
    is_weights: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a place shall have for a search."""

    question: Question
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Has:
    """What a place has. `code` is the hash of its dynamometer and `fixed` why it cannot be replaced, '' where it can;
    `missing` are the paths of files to be sent, with how many bytes an earlier transfer brought; `lacking` are the
    scenario's engines that cannot run there, with the reason, and `installable` those of them that can be installed."""

    code: str
    fixed: str
    missing: Mapping[str, int]
    free_bytes: int
    cache: str
    lacking: Mapping[str, str]
    installable: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """To install an engine's environment, or a wheel that was brought under this path."""

    engine: str = ""
    wheel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was installed, as people read it."""

    what: str
