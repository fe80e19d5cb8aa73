"""The largest shape of a workload: its longest input, as many times at once as the load ever asks, answered in full.

A load draws its prompts at random, so that the longest rarely meet in one batch; memory that suffices for a window may
not suffice for a day. A finalist is driven to it once, after its first load. Inputs of a length are texts of the
corpus, each another one, since a prefix cache would hold equal ones once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from engines.api import RunningEngine
from engines.processes.waiting import Waiting
from harness.records import Candidate, Prompt
from harness.scenario.load_kinds import ClosedLoad
from harness.scenario.load_list import loads_of
from harness.trial.ask_prompts import ask, concurrency_of
from harness.trial.endpoint_form import quality_form
from harness.trial.inputs import TrialInputs
from harness.trial.progress import Phase, Progress

MOST_AT_ONCE = 256
"""Requests at once, a thread each; a batch is smaller."""
SETTLE_S = 2.0
"""A server counts a worker that ended a little after its clients have noticed."""
PHASE = "largest shape"


@dataclass(frozen=True, slots=True, kw_only=True)
class LongestInputs:
    """The longest inputs that a load sends, as many as were asked for, of about `tokens` tokens each (None: the longest
    of the prompts, as it is), whose answers have up to `output_tokens`."""

    prompts: tuple[Prompt, ...]
    tokens: int | None
    output_tokens: int


def drive_largest(
    engine: RunningEngine,
    inputs: TrialInputs,
    candidate: Candidate,
    progress: Progress,
    longest_of: Callable[[int], LongestInputs],
) -> tuple[str, bool]:
    """Ask for the largest shape; returns (a sentence on what came, whether a worker ended over it). Whether the engine
    as a whole lived, `engine.failure()` knows. `longest_of` gives so many inputs of the longest length."""
    crashes = engine.facts.crashes
    workload = inputs.scenario.workload
    users = max(load.most_users if isinstance(load, ClosedLoad) else 0 for load in loads_of(workload.load))
    count = min(max(users, concurrency_of(candidate)), MOST_AT_ONCE)
    longest = longest_of(count)
    tokens = longest.output_tokens
    size = f"{longest.tokens} tokens of input" if longest.tokens else f"{len(longest.prompts[0].model_text)} characters"
    is_exact = engine.endpoint.dialect.exact_tokens != "none"
    parameters = workload.parameters.model_copy(
        update={"min_new_tokens": tokens if is_exact else 0, "max_new_tokens": tokens}
    )
    asked = ask(
        engine,
        [replace(prompt, prompt_id=f"largest-{number}") for number, prompt in enumerate(longest.prompts)],
        quality_form(engine.endpoint, workload.model_copy(update={"parameters": parameters}), candidate.engine),
        concurrency=count,
        on_progress=lambda done: progress.on_phase(Phase(name=PHASE, done=done, total=count)),
    )
    settling = Waiting(SETTLE_S if asked.failures else 0.0)
    while (ended := engine.facts.crashes - crashes) == 0 and engine.failure() is None and not settling.is_over:
        settling.pause(0.05, "what the failed answers did to the server")
    failed = next(iter(asked.failures.values()), "")
    what = f"largest shape ({count} at once, {size}, {'' if is_exact else 'up to '}{tokens} tokens)"
    if ended:
        what += f" ended {ended} worker{'s' if ended > 1 else ''}"
    return (
        f"{what}: {len(asked.failures)} of {count} failed, first {failed}" if failed else f"{what}: answered",
        ended > 0,
    )
