"""Beam search for adapters whose engine returns logits, with Hugging Face's rules.

A hypothesis scores sum(log p) / length**length_penalty, length counting eos and not what the answer follows (the start
token, or the prompt of a decoder-only model). Each step looks at the best (1 + number of eos ids, at least 2) x beams
continuations; those among the first `beams` that end are finished, the best unfinished ones continue. A search ends
when its set of finished ones is full and the best running beam, at its present length, cannot exceed the worst of them;
with early_stopping True as soon as the set is full, with 'never' when it could not at its longest either. Source:
transformers 5.23, GenerationMixin._beam_search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.api import GenerateRequest, TokenEvent
from engines.generation.token_choice import Ids, Logits, processed
from engines.models.checkpoint.special_ids import SpecialIds

_NEVER = np.float32(-1e9)


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """Decoder ids so far, the model's log-probability of each of the answer's, and the score to rank by."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: np.float32


class _Search:
    """The beams of one request."""

    def __init__(self, index: int, request: GenerateRequest, special: SpecialIds) -> None:
        self.index = index
        self.params = request.params
        self._special = special
        empty = _Hypothesis(special.before_answer(request.input_ids), (), np.float32(0))
        self._before = len(empty.ids)
        self.running = [empty] + [_Hypothesis(empty.ids, (), _NEVER)] * (self.params.num_beams - 1)
        self.finished: list[_Hypothesis] = []
        self.is_open = True

    def advance(self, logprobs: Logits) -> list[int]:
        """Take one step on log-probabilities [beams, V]; which beam each new running beam continues."""
        beams = self.params.num_beams
        totals = np.stack(
            [
                processed(row, beam.ids, self._before, self.params, self._special.eos) + beam.score
                for row, beam in zip(logprobs, self.running, strict=True)
            ]
        )
        kept = max(2, 1 + len(self._special.eos)) * beams
        ended: list[_Hypothesis] = []
        going: list[_Hypothesis] = []
        parents: list[int] = []
        for place, (parent, token) in enumerate(_best(totals, kept)):
            beam = self.running[parent]
            found = _Hypothesis(
                (*beam.ids, token), (*beam.logprobs, float(logprobs[parent, token])), totals[parent, token]
            )
            if token in self._special.eos or len(found.logprobs) >= self.params.max_new_tokens:
                ended += [found] if place < beams else []
            elif len(going) < beams:
                going.append(found)
                parents.append(parent)
        self._settle(ended, going)
        return parents

    def _settle(self, ended: Sequence[_Hypothesis], going: list[_Hypothesis]) -> None:
        beams = self.params.num_beams
        length = np.float32((len(self.running[0].logprobs) + 1) ** self.params.length_penalty)
        scored = [_Hypothesis(item.ids, item.logprobs, np.float32(item.score / length)) for item in ended]
        self.finished = sorted(self.finished + scored, key=lambda item: -item.score)[:beams]
        self.is_open = len(going) == beams and not (len(self.finished) == beams and self._is_settled(going[0], length))
        self.running = going

    def _is_settled(self, best: _Hypothesis, length: np.float32) -> bool:
        """Whether the running beams can add nothing to a full set of finished ones."""
        params = self.params
        if params.early_stopping == "never" and params.length_penalty > 0:
            length = np.float32(params.max_new_tokens**params.length_penalty)
        return params.early_stopping is True or bool(best.score / length <= self.finished[-1].score)

    def events(self) -> list[TokenEvent]:
        """The best hypothesis, whole."""
        best = self.finished[0]
        answer = best.ids[self._before :]
        events = []
        for position, token in enumerate(answer):
            is_last = position == len(answer) - 1
            finish = ("eos" if token in self._special.eos else "length") if is_last else None
            logprob = best.logprobs[position] if self.params.return_logprobs else None
            events.append(TokenEvent(index=self.index, token_id=token, logprob=logprob, finish=finish))
        return events


class BeamSearches:
    """The searches of a batch, side by side as rows of one decoder batch.

    `sources` states which row of the batch before (at first: which request) each row now continues; `next_ids` [R, 1]
    is what to feed; `has_closed` whether the step before took rows out.
    """

    def __init__(self, batch: Sequence[GenerateRequest], special: SpecialIds) -> None:
        self._open = [_Search(index, request, special) for index, request in enumerate(batch)]
        self.sources: Ids = np.repeat(np.arange(len(batch)), [request.params.num_beams for request in batch])
        last = [search.running[0].ids[-1] for search in self._open]
        self.next_ids: Ids = np.asarray(last, dtype=np.int64)[self.sources].reshape(-1, 1)
        self.has_closed = False

    @property
    def is_done(self) -> bool:
        return not self._open

    def step(self, logits: Logits) -> list[TokenEvent]:
        """Advance every search on logits [R, V]; the events of those that ended."""
        logprobs = _log_softmax(logits)
        events: list[TokenEvent] = []
        sources: list[int] = []
        tokens: list[int] = []
        still_open = []
        first = 0
        for search in self._open:
            rows = search.params.num_beams
            parents = search.advance(logprobs[first : first + rows])
            if search.is_open:
                sources += [first + parent for parent in parents]
                tokens += [beam.ids[-1] for beam in search.running]
                still_open.append(search)
            else:
                events += search.events()
            first += rows
        self.has_closed = len(still_open) < len(self._open)
        self._open = still_open
        self.sources = np.asarray(sources, dtype=np.int64)
        self.next_ids = np.asarray(tokens, dtype=np.int64).reshape(-1, 1)
        return events


def _best(totals: NDArray[np.float32], count: int) -> list[tuple[int, int]]:
    """(beam, token) of the `count` highest totals [beams, V], best first, NaN last."""
    flat = np.nan_to_num(totals.reshape(-1), nan=-np.inf)
    count = min(count, len(flat))
    top = np.argpartition(flat, -count)[-count:]
    order = top[np.argsort(-flat[top], kind="stable")]
    return [(int(place) // totals.shape[1], int(place) % totals.shape[1]) for place in order]


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
