"""The prompts that CTranslate2 decodes together, and the way from its callbacks, a token each, to our events."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engines.api import GenerateParams, GenerateRequest, TokenEvent
from engines.models.checkpoint.special_ids import SpecialIds

HANDOVER_S = 0.005
"""Steps that follow each other faster than this are handed over together: waking the listener every step costs a small
model more than the step itself. The first step is never held back."""


FURTHER_ROW = 0.2
TOKEN_READ = 0.05
"""The time of a further row in a step, and of a prompt's token that is read with others, in steps of one row: 6.5 and 2
ms beside 40 (SmolLM2-135M's shape, fp32, one thread of a Xeon with AVX-512, 2026-11-29). A larger model is bound more
by its weights, so that sharing pays a little earlier."""


def length_groups(lengths: Sequence[int], new: Sequence[int]) -> list[list[int]]:
    """Places of prompts of these lengths, with so many new tokens each, in the groups that take the least time. A group
    is read as far as its shortest prompt reaches, and what is longer goes token by token while the others answer."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])

    def cost(group: Sequence[int]) -> float:
        shortest = lengths[group[0]]
        steps = max(lengths[place] - shortest + new[place] for place in group)
        return steps * (1 + FURTHER_ROW * (len(group) - 1)) + TOKEN_READ * shortest * len(group)

    best: list[tuple[float, list[list[int]]]] = [(0.0, [])]
    for end in range(1, len(order) + 1):
        ways = ((best[begin][0] + cost(order[begin:end]), begin) for begin in range(end))
        least, begin = min(ways)
        best.append((least, [*best[begin][1], order[begin:end]]))
    return best[-1][1]


class Steps:
    """Gathers CTranslate2's per-token callbacks (on its thread) into lists of events, a step or several in each, with
    the number of rows that ended meanwhile. `fed`: the first steps of each row that repeat its prompt."""

    def __init__(
        self,
        requests: Sequence[GenerateRequest],
        fed: Sequence[int],
        indices: Sequence[int],
        special: SpecialIds,
        steps: queue.SimpleQueue[tuple[list[TokenEvent], int]],
    ) -> None:
        self._fed = fed
        self._limits = [request.params.max_new_tokens for request in requests]
        self._wants_logprob = [request.params.return_logprobs for request in requests]
        self._indices = indices
        self._open = set(range(len(requests)))
        self._special = special
        self._steps = steps
        self._events: list[TokenEvent] = []
        self._ended = 0
        self._expected = len(requests)
        self._next_handover = 0.0
        self._texts = [list(request.input_ids) for request in requests]
        self._counts_prompt = special.is_decoder and is_penalized(requests[0].params)
        self._ngram = requests[0].params.no_repeat_ngram_size
        self.doubts: dict[int, list[int]] = {}
        self.is_cancelled = False

    def on_token(self, step: Any) -> bool:
        """True ends this row: its own limit is reached, or nobody is listening any more."""
        row = step.batch_id
        number = step.step - self._fed[row]
        finish = None
        is_doubtful = number >= 0 and self._counts_prompt and self._is_doubtful(row, step.token_id)
        if is_doubtful:
            self.doubts[row] = self._texts[row][-number:] if number else []
        elif number >= 0:
            self._texts[row].append(step.token_id)
            if step.token_id in self._special.eos:
                finish = "eos"
            elif number + 1 >= self._limits[row]:
                finish = "length"
            logprob = step.log_prob if self._wants_logprob[row] else None
            self._events.append(
                TokenEvent(index=self._indices[row], token_id=step.token_id, logprob=logprob, finish=finish)
            )
        if finish is not None or is_doubtful:
            self._open.discard(row)
            self._ended += 1
        self._expected -= 1
        if self._expected == 0:
            self._expected = len(self._open)
            now = time.monotonic()
            if not self._open or (self._events and now >= self._next_handover):
                self._steps.put((self._events, self._ended))
                self._events, self._ended, self._next_handover = [], 0, now + HANDOVER_S
        return self.is_cancelled or is_doubtful or finish is not None

    def _is_doubtful(self, row: int, token: int) -> bool:
        """Whether the prompt's first token, which CTranslate2's penalties leave out, could change this choice."""
        text, size = self._texts[row], self._ngram
        is_unseen = token == text[0] and token not in text[1:]
        is_first_ngram = (
            0 < size <= len(text) and text[size - 1] == token and text[: size - 1] == text[len(text) - size + 1 :]
        )
        return is_unseen or is_first_ngram

    def ends(self, results: Sequence[Any]) -> list[TokenEvent]:
        """What is left once every result is there: the events not handed over, and an end for each row without one,
        which CTranslate2 had no answer for. Raises what ended the decoding early."""
        for result in results:
            result.result()
        silent = [TokenEvent(index=self._indices[row], token_id=None, finish="eos") for row in sorted(self._open)]
        return [*self._events, *silent]


def is_penalized(params: GenerateParams) -> bool:
    """Whether earlier tokens change the choice of the next."""
    return params.repetition_penalty != 1.0 or params.no_repeat_ngram_size > 0


def words(ids: Sequence[int]) -> list[str]:
    """Ids as tokens of the converted vocabulary."""
    return [str(token) for token in ids]


def continued(request: GenerateRequest, answer: Sequence[int]) -> GenerateRequest:
    """What is left of a request after the first tokens of its answer."""
    params, done = request.params, len(answer)
    left = replace(
        params,
        max_new_tokens=params.max_new_tokens - done,
        min_new_tokens=max(0, params.min_new_tokens - done),
    )
    return GenerateRequest(input_ids=(*request.input_ids, *answer), params=left)
