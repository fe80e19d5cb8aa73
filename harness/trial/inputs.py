"""Inputs shared by all trials of a run: model folder, prompts, and who sends the load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.api import QueueOrder
from engines.cache_folder import cache_root
from engines.models.folder import check_model_folder, resolve_model
from harness.load.corpus.spans import Around
from harness.load.hosts.coordinator import LoadHosts
from harness.load.plan import OwnHistory
from harness.load.user_locustfile.check import OwnLocustfile, checked_locustfile
from harness.load.web_ui.launch import WebUi
from harness.records import Prompt
from harness.scenario.resolve import ResolvedScenario, with_code
from harness.scenario.schema import Scenario
from harness.space.chat import around_of, conversations_of, own_history_of, prompts_of, token_counts
from harness.space.context import check_context


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """Another checkout whose `engines` serve instead of this one's, by its own interpreter where it has one."""

    root: Path
    python: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInputs:
    """Inputs shared by all trials of a run, read before the first launch. `trace_path` is the file of a load of kind
    trace, `locustfile` the user's own code where the scenario names one, `web_ui` the page that shows the live load
    where it was asked for, `hosts` the workers that send the load where other hosts do. `reference_dir` is the folder
    that answers in fp32, None where none does. `token_counts` are those of a chat's prompts as the model reads them, ()
    where they cannot be counted here. `corpus_path` is the text from which inputs of a length are cut, `around` what
    the model's chat template writes around one of them, `conversations` the turns of each prompt where each is sent,
    `own_history` that they carry the server's own answers. `queue_order` is how our server takes waiting requests."""

    scenario: Scenario
    model_dir: Path
    prompts: tuple[Prompt, ...]
    checkout: Checkout | None = None
    trace_path: Path | None = None
    locustfile: OwnLocustfile | None = None
    web_ui: WebUi | None = None
    hosts: LoadHosts | None = None
    reference_dir: Path | None = None
    queue_order: QueueOrder = "fifo"
    token_counts: tuple[int, ...] = ()
    corpus_path: Path | None = None
    around: Around | None = None
    conversations: tuple[tuple[Prompt, ...], ...] = ()
    own_history: OwnHistory | None = None

    @property
    def quality_prompts(self) -> tuple[Prompt, ...]:
        """The prompts whose answers are compared with the reference's."""
        return self.prompts[: self.scenario.quality.prompts]


def read_inputs(resolved: ResolvedScenario, checkout: Checkout | None = None) -> TrialInputs:
    """The inputs that a scenario names. Raises UsageError for bad prompts or a context that
    is too short for them, EngineError for a bad model."""
    model = resolved.model
    folder = Path(model.value)
    reference = resolved.reference_folder
    if reference is not None:
        check_model_folder(reference)
    if resolved.scenario.reads_model:
        folder = resolve_model(model.kind, model.value, model.seed, cache_root())
        check_context(resolved, folder)
    known = (reference or folder) if resolved.scenario.knows_model else None
    prompts = prompts_of(resolved, known)
    return TrialInputs(
        scenario=resolved.scenario,
        model_dir=folder,
        prompts=prompts,
        token_counts=token_counts(prompts, known) if known is not None and resolved.scenario.workload.chat else (),
        corpus_path=resolved.corpus_path,
        around=around_of(resolved, known),
        conversations=conversations_of(resolved, known, prompts),
        own_history=own_history_of(resolved, known, prompts),
        checkout=checkout,
        trace_path=resolved.trace_path,
        locustfile=own_locustfile(resolved),
        reference_dir=(reference or folder) if resolved.has_own_reference else None,
    )


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
