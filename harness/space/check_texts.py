"""The check that the corpus of a scenario holds what its requests will be cut from."""

from __future__ import annotations

from collections.abc import Callable

from harness.errors import ScenarioError
from harness.load.schedule.estimate import load_requests
from harness.scenario.lengths import longest, shortest
from harness.scenario.load_kinds import TraceLoad
from harness.scenario.resolve import ResolvedScenario
from harness.space.capabilities import folder_here
from harness.space.chat import around_of
from harness.space.plan_text import facts_of


def check_texts(resolved: ResolvedScenario, at: Callable[..., str]) -> None:
    """Raises ScenarioError, with the numbers, for a corpus that is too short or an input shorter than what the
    tokenizer adds to it; ModelInvalid for a damaged tokenizer. By words where the model is not here. Messages begin
    with what `at` makes of a field's path."""
    workload = resolved.scenario.workload
    if resolved.corpus_path is None:
        return
    from harness.load.corpus.cuts import cutter_of  # it needs numpy, which other checks do without

    lengths = workload.lengths
    if lengths is not None and lengths.input is not None:
        most, requests = longest(lengths.input), load_requests(workload) + workload.warmup_requests
        count = requests * workload.inputs_per_request
    else:
        trace = facts_of(resolved)
        if trace is not None and trace.schedule.blocks and workload.inputs_per_request > 1:
            raise ScenarioError(
                f"{at('workload', 'inputs_per_request')}expected 1 beside a trace with hash_ids, which are those of "
                f"one input, got {workload.inputs_per_request}"
            )
        known = [length for length in trace.schedule.input_lengths if length is not None] if trace is not None else []
        most, count = max(known, default=0), len(known) * workload.inputs_per_request
        if trace is not None and trace.schedule.blocks:
            most, count = trace.block_tokens, 1
    if not count:
        return
    folder = folder_here(resolved) if resolved.scenario.reads_model else None
    shared, around = lengths.shared if lengths is not None else 0, around_of(resolved, folder)
    _, cutter = cutter_of(resolved.corpus_path, folder, around, workload.corpus_may_repeat, shared)
    if lengths is not None and (least := shortest(lengths.input)) <= cutter.added:
        raise ScenarioError(
            f"{at('workload', 'lengths', 'input')}expected more than the {cutter.added} tokens that the model's "
            f"tokenizer or chat template adds to a text, got {least}"
        )
    cutter.check(most, count, at("workload", "corpus"))


def check_turns(resolved: ResolvedScenario, at: Callable[..., str]) -> None:
    """Raises ScenarioError for a trace that cannot be read, or whose rows follow no others though a goal is about that
    or a think time is stated."""
    trace, load = facts_of(resolved), resolved.scenario.workload.load
    if trace is None or trace.schedule.follows:
        return
    asked = [name for name in resolved.scenario.goal_names if name.startswith("slip_")]
    asked += ["workload.load.think_time_s"] if isinstance(load, TraceLoad) and load.think_time_s else []
    if asked:
        raise ScenarioError(
            f"{at('workload', 'load', 'path')}expected conversations of several turns (a column session_id), because "
            f"{asked[0]} is asked for, got none in what is replayed of {trace.name}"
        )
