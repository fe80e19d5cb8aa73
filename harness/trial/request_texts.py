"""The texts of a load's requests: cut from the scenario's corpus to the lengths that it asks for."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from harness.errors import ScenarioError
from harness.load.corpus.cuts import Cutter, cutter_of
from harness.load.corpus.spans import Cut
from harness.load.plan import NO_TURN, LoadPlan
from harness.load.prompts.lengths import CORPUS, SentPrompts, shaped, token_rates
from harness.load.prompts.own_history import common_length
from harness.load.schedule.request_times import Schedule
from harness.records import Prompt
from harness.scenario.lengths import drawn, longest
from harness.scenario.load_kinds import TraceLoad
from harness.trial.inputs import TrialInputs
from harness.trial.largest_shape import LongestInputs


class RequestTexts:
    """Fills in what the requests of a plan carry."""

    def __init__(self, inputs: TrialInputs) -> None:
        self._inputs = inputs
        self._given = 0
        self._openings = 0

    def begin_at(self, number: int) -> None:
        """Inputs get the corpus's texts from this number on; from 0 on in each launch, so that all get the same."""
        self._given = number

    def filled(self, plan: LoadPlan, folder: Path | None, blocks: Sequence[Sequence[int]] = ()) -> LoadPlan:
        """`plan` with the scenario's lengths where it states some, and with a text of the corpus for each of its inputs
        and its warm-up, counted by the model in `folder` (None: by words); made of `blocks`, equal where their ids are,
        where a trace names them for each request. Raises ScenarioError: the corpus is too short."""
        plan = self._with_lengths(plan)
        return self._with_turns(plan) if self._inputs.conversations else self._with_texts(plan, folder, blocks)

    def _with_texts(self, plan: LoadPlan, folder: Path | None, blocks: Sequence[Sequence[int]]) -> LoadPlan:
        """`plan` with a text for each input of a length."""
        if all(length is None for length in plan.input_lengths):
            return plan
        path = self._inputs.corpus_path
        if path is None:
            rates, end_tokens = token_rates(plan.prompts, folder) if folder is not None else ({}, 0)
            return replace(plan, tokens_per_word=rates, end_tokens=end_tokens)
        workload = self._inputs.scenario.workload
        shared = workload.lengths.shared if workload.lengths is not None else 0
        text, cutter = cutter_of(path, folder, self._inputs.around, workload.corpus_may_repeat, shared)
        if blocks:
            measured, warm = self._of_blocks(plan, cutter, blocks)
            return replace(plan, corpus=text, cuts=measured, warmup_cuts=warm, around=self._inputs.around)
        self._openings = cutter.openings if workload.lengths is not None else 0
        measured, warm = self._of_lengths(plan, cutter)
        return replace(plan, corpus=text, cuts=measured, warmup_cuts=warm, around=self._inputs.around)

    def as_they_begin(self, prompt_ids: Iterable[str]) -> dict[str, str]:
        """Prompt id -> one name for all texts that begin with the same word of the corpus, which come where a launch
        sends more texts than it has beginnings; {} where lengths are not those of the scenario."""
        begin = f"{CORPUS}-"
        numbers = {each: each.removeprefix(begin) for each in prompt_ids if self._openings and each.startswith(begin)}
        return {each: f"{begin}{int(n) % self._openings}" for each, n in numbers.items() if n.isdigit()}

    def longest(self, plan: LoadPlan, folder: Path | None, number: int, schedule: Schedule | None) -> LongestInputs:
        """`number` inputs of the longest length that requests like those of `plan` have, on the schedule of a trace
        where there is one: texts of the corpus that begin differently, as far as it goes, else the longest prompt."""
        lengths = self._inputs.scenario.workload.lengths
        asked, answered = (longest(lengths.input), longest(lengths.output)) if lengths else (0, 0)
        if schedule is not None:
            asked, answered = (
                max((length or 0 for length in known), default=0) // plan.inputs_per_request
                for known in (schedule.input_lengths, schedule.output_lengths)
            )

        def sent(requests: int) -> LoadPlan:
            one = replace(plan, inputs_per_request=1, warmup_requests=0, requests=requests)
            return self._with_texts(replace(one, input_lengths=(asked,) * requests if asked else ()), folder, ())

        try:
            filled = sent(number)
        except ScenarioError:  # the corpus is too short for so many that begin differently
            filled = sent(1)
        most = answered or filled.parameters["max_new_tokens"]
        assert isinstance(most, int)
        if not filled.input_lengths:
            prompt = max(plan.prompts, key=lambda prompt: len(prompt.model_text))
            return LongestInputs(prompts=(prompt,) * number, tokens=None, output_tokens=most)
        texts = SentPrompts(filled)
        prompts = tuple(shaped(filled, seq, texts.measured(seq))[0][0] for seq in range(filled.requests))
        return LongestInputs(prompts=(prompts * number)[:number], tokens=filled.input_lengths[0], output_tokens=most)

    def _with_turns(self, plan: LoadPlan) -> LoadPlan:
        """`plan` with the turns of whole conversations, in a fresh seeded order each time round, until it has its
        requests, behind the conversations that came before. In an open loop `at_once` are in progress, and the request
        at each time is the next turn of one."""
        settings, number = self._inputs.scenario.workload.conversations, len(plan.offsets_ns) or plan.requests
        at_once = settings.at_once if settings is not None and settings.at_once else 1
        if settings is not None and plan.is_open_loop:
            plan = replace(plan, think_time_s=settings.think_time_s)
        coming = islice(self._shuffled(plan.seed), plan.sent_before, None)
        turns, follows = list[Prompt](), list[int]()
        left: list[list[Prompt]] = [[] for _ in range(at_once)]
        for seq in range(number):
            going = left[seq % at_once]
            follows.append(seq - at_once if going else NO_TURN)
            going = left[seq % at_once] = going or list(next(coming))
            turns.append(going.pop(0))
        if self._inputs.own_history is not None:  # what they share is known when the answers are
            return replace(plan, turns=tuple(turns), follows=tuple(follows), own_history=self._inputs.own_history)
        known = sum(
            common_length(turn.model_text, turns[before].model_text)
            for turn, before in zip(turns, follows, strict=True)
            if before != NO_TURN
        )
        hit_frac = known / sum(len(turn.model_text) for turn in turns)  # by characters, about that of tokens
        return replace(plan, turns=tuple(turns), follows=tuple(follows), unlimited_hit_frac=hit_frac)

    def _shuffled(self, seed: int) -> Iterator[Sequence[Prompt]]:
        """Conversations without end, in a fresh order each time round."""
        rng = random.Random(f"conversations:{seed}")
        while True:
            yield from rng.sample(self._inputs.conversations, len(self._inputs.conversations))

    def _of_lengths(self, plan: LoadPlan, cutter: Cutter) -> tuple[tuple[Cut, ...], tuple[Cut, ...]]:
        """The texts of measured and of warm-up requests, each with a beginning that no other has but the turns of its
        conversation."""
        firsts = conversations(plan.follows) or range(len(plan.input_lengths))
        rows = [(first, n) for first, n in zip(firsts, plan.input_lengths, strict=True) if n is not None]
        fresh = count(max(firsts) + 1)
        warm = [max(n for _, n in rows), *(rows[number % len(rows)][1] for number in range(plan.warmup_requests))]
        rows += [(next(fresh), n) for n in warm[: plan.warmup_requests]]
        each = plan.inputs_per_request
        parts = [(first * each + k, part) for first, n in rows for k, part in enumerate(shares(n, each))]
        # Further levels of a launch get other texts: the server may still hold the ones before.
        cuts = cutter.cuts([part for _, part in parts], plan.seed + self._given, [first for first, _ in parts])
        self._given += len(parts)
        return _placed(plan.input_lengths, cuts, each)

    def _of_blocks(
        self, plan: LoadPlan, cutter: Cutter, blocks: Sequence[Sequence[int]]
    ) -> tuple[tuple[Cut, ...], tuple[Cut, ...]]:
        """The texts of measured and of warm-up requests; the blocks of these are unknown to every cache."""
        load = self._inputs.scenario.workload.load
        assert isinstance(load, TraceLoad)
        size, fresh = load.block_tokens, count(1 + max(block for ids in blocks for block in ids))

        def own(length: int) -> list[int]:
            return list(islice(fresh, -(-length // size)))

        rows = [(ids or own(n), n) for ids, n in zip(blocks, plan.input_lengths, strict=True) if n is not None]
        lengths = [max(n for _, n in rows), *(n for _, n in rows)][: plan.warmup_requests]
        cuts = cutter.blocks([*rows, *((own(n), n) for n in lengths)], size, plan.seed)
        return _placed(plan.input_lengths, cuts, 1)

    def _with_lengths(self, plan: LoadPlan) -> LoadPlan:
        lengths, number = self._inputs.scenario.workload.lengths, len(plan.offsets_ns) or plan.requests
        if lengths is None:
            return plan
        each = plan.inputs_per_request
        inputs = drawn(lengths.input, number, f"inputs:{plan.seed}")
        outputs = drawn(lengths.output, number, f"outputs:{plan.seed}")
        return replace(
            plan,
            unlimited_hit_frac=lengths.shared * number / sum(inputs) if inputs and lengths.shared else None,
            input_lengths=tuple(length * each for length in inputs),
            output_lengths=tuple(length * each for length in outputs),
        )


def conversations(follows: Sequence[int]) -> list[int]:
    """For each request the first one of its conversation; [] where nothing depends."""
    firsts: list[int] = []
    for seq, before in enumerate(follows):
        firsts.append(seq if before == NO_TURN else firsts[before])
    return firsts


def shares(length: int, parts: int) -> list[int]:
    """`length` in `parts` whole shares, which differ by one at most; each at least 1."""
    return [max(1, length // parts + (part < length % parts)) for part in range(parts)]


def _placed(lengths: Sequence[int | None], cuts: Sequence[Cut], each: int) -> tuple[tuple[Cut, ...], tuple[Cut, ...]]:
    """The cuts at the places of their requests, () where a request has no length, and those that are left."""
    found: list[Cut] = []
    at = 0
    for length in lengths:
        taken = 0 if length is None else each
        found += cuts[at : at + each] if taken else [()] * each
        at += taken
    return tuple(found), tuple(cuts[at:])
