"""What every trial of a run shares, and what a trial tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.load.hosts.coordinator import LoadHosts
from harness.load.user_locustfile.check import OwnLocustfile, checked_locustfile
from harness.load.web_ui.launch import WebUi
from harness.records import Prompt
from harness.scenario.resolve import ResolvedScenario, with_code
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
    a load of kind trace, `locustfile` the user's own code where the scenario names one,
    `web_ui` the page that shows the live load where it was asked for, `hosts` the
    workers that send it where others than this one do."""

    scenario: Scenario
    model_dir: Path
    prompts: tuple[Prompt, ...]
    checkout: Checkout | None = None
    trace_path: Path | None = None
    locustfile: OwnLocustfile | None = None
    web_ui: WebUi | None = None
    hosts: LoadHosts | None = None


def with_checked_code(resolved: ResolvedScenario) -> ResolvedScenario:
    """`resolved`, its locustfile (if it names one) imported once to see that it works, and hashed into the digest.

    Raises ScenarioError with the sentence that refuses it.
    """
    path = resolved.locustfile_path
    return resolved if path is None else with_code(resolved, checked_locustfile(path).sha256)


def own_locustfile(resolved: ResolvedScenario) -> OwnLocustfile | None:
    """The locustfile of a scenario that went through `with_checked_code`, now or when its run was stored."""
    path = resolved.locustfile_path
    return None if path is None else OwnLocustfile(path=path, sha256=resolved.locustfile_sha256)
