"""Token choice from logits, greedy or sampled, for adapters: each request of a batch with its own parameters.

Semantics and order are Hugging Face's: repetition penalty (over the decoder ids: the start token, or the prompt of a
decoder-only model, and the answer so far), no-repeat n-gram, minimum length, then for sampling temperature, top-k,
top-p. Reported log-probabilities are those of the model, before any of that. A row that has finished is fed padding
until `shrink` takes it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engines.api import GenerateParams, GenerateRequest, TokenEvent
from engines.errors import RequestInvalid
from engines.models.checkpoint.kind import why_too_long
from engines.models.checkpoint.special_ids import SpecialIds

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]


def warm_up_request(special: SpecialIds) -> GenerateRequest:
    """A short request before the first one, so that no user's request pays for first-touch allocation."""
    return GenerateRequest(input_ids=(2, special.eos[0]), params=GenerateParams(max_new_tokens=4, min_new_tokens=4))


def check_request(request: GenerateRequest, vocab_size: int, max_positions: int | None = None) -> None:
    """Nothing, or RequestInvalid naming the first parameter that means nothing. `max_positions` is the context that
    prompt and answer of a decoder-only model share; None: no limit."""
    params = request.params
    if not request.input_ids:
        raise RequestInvalid("input_ids is empty; expected at least one token")
    if not 0 <= min(request.input_ids) <= max(request.input_ids) < vocab_size:
        raise RequestInvalid(f"input_ids hold an id outside 0..{vocab_size - 1}; use the model's own tokenizer")
    rules: tuple[tuple[str, float, bool, str], ...] = (
        ("max_new_tokens", params.max_new_tokens, params.max_new_tokens >= 1, "1 or more"),
        ("min_new_tokens", params.min_new_tokens, params.min_new_tokens >= 0, "0 or more"),
        ("num_beams", params.num_beams, params.num_beams >= 1, "1 or more"),
        ("temperature", params.temperature, params.temperature > 0, "more than 0"),
        ("top_k", params.top_k, params.top_k >= 0, "0 (off) or more"),
        ("top_p", params.top_p, 0 < params.top_p <= 1, "more than 0, at most 1"),
        ("repetition_penalty", params.repetition_penalty, params.repetition_penalty > 0, "more than 0"),
        ("no_repeat_ngram_size", params.no_repeat_ngram_size, params.no_repeat_ngram_size >= 0, "0 (off) or more"),
    )
    for name, value, holds, expected in rules:
        if not holds:
            raise RequestInvalid(f"{name} is {value!r}, expected {expected}")
    if params.do_sample and params.num_beams > 1:
        raise RequestInvalid("do_sample with num_beams > 1 is not offered; choose one of them")
    reason = why_too_long(len(request.input_ids), params.max_new_tokens, max_positions)
    if reason:
        raise RequestInvalid(reason)


def padded(batch: Sequence[GenerateRequest], special: SpecialIds) -> tuple[Ids, Ids]:
    """Ids [B, S] and their attention mask [B, S] (1 = real), padded on the right for an encoder, and on the left for a
    decoder-only model, so that every answer begins in the same column."""
    longest = max(len(request.input_ids) for request in batch)
    ids = np.full((len(batch), longest), special.pad, dtype=np.int64)
    mask = np.zeros((len(batch), longest), dtype=np.int64)
    for row, request in enumerate(batch):
        count = len(request.input_ids)
        place = slice(longest - count, longest) if special.is_decoder else slice(0, count)
        ids[row, place] = request.input_ids
        mask[row, place] = 1
    return ids, mask


class _Row:
    """One unfinished request."""

    __slots__ = ("before", "generator", "ids", "index", "is_finished", "is_plain", "params")

    def __init__(self, index: int, params: GenerateParams, before: Sequence[int]) -> None:
        self.index = index
        self.params = params
        self.ids = list(before)
        self.before = len(before)
        self.is_finished = False
        self.is_plain = not (
            params.do_sample or params.min_new_tokens or params.no_repeat_ngram_size or params.repetition_penalty != 1.0
        )
        self.generator = np.random.default_rng(params.seed) if params.do_sample else None


class Decoding:
    """The state of one batch between decode steps. `next_ids` [B, 1] is what the decoder must be fed: at first the
    start id, or the prompt's last id of a decoder-only model."""

    def __init__(self, batch: Sequence[GenerateRequest], special: SpecialIds) -> None:
        self._special = special
        before = [special.before_answer(request.input_ids) for request in batch]
        self._rows = [_Row(index, request.params, before[index]) for index, request in enumerate(batch)]
        self.next_ids: Ids = np.array([[ids[-1]] for ids in before], dtype=np.int64)

    @property
    def is_done(self) -> bool:
        return all(row.is_finished for row in self._rows)

    def step(self, logits: Logits) -> list[TokenEvent]:
        """Choose one token a row from logits [B, V]; the events of the rows that were unfinished."""
        best = logits.argmax(axis=1)
        events = []
        for position, row in enumerate(self._rows):
            if row.is_finished:
                continue
            token = int(best[position]) if row.is_plain else _choose(row, logits[position], self._special.eos)
            row.ids.append(token)
            event = TokenEvent(
                index=row.index,
                token_id=token,
                logprob=_logprob(logits[position], token, row.params.return_logprobs),
                finish=self._finish(row, token),
            )
            row.is_finished = event.finish is not None
            self.next_ids[position, 0] = self._special.pad if row.is_finished else token
            events.append(event)
        return events

    def _finish(self, row: _Row, token: int) -> str | None:
        if token in self._special.eos:
            return "eos"
        return "length" if len(row.ids) - row.before >= row.params.max_new_tokens else None

    def shrink(self) -> Ids | None:
        """Positions of the rows to keep, once at least half have finished; None while it is not worth copying."""
        keep = [position for position, row in enumerate(self._rows) if not row.is_finished]
        if not keep or 2 * len(keep) > len(self._rows):
            return None
        self._rows = [self._rows[position] for position in keep]
        positions = np.asarray(keep, dtype=np.int64)
        self.next_ids = self.next_ids[positions]
        return positions


def _logprob(logits: Logits, token: int, is_wanted: bool) -> float | None:
    """log P(token) in nats when wanted; NaN, wanted or not, when the chosen logit is not finite (a NaN anywhere wins
    the argmax, so this one look finds a broken model for free)."""
    if not np.isfinite(logits[token]):
        return float("nan")
    if not is_wanted:
        return None
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def _choose(row: _Row, logits: Logits, eos: Sequence[int]) -> int:
    scores = processed(logits, row.ids, row.before, row.params, eos)
    best = int(scores.argmax())
    if row.generator is None or not np.isfinite(scores[best]):  # a broken model has no distribution to draw from
        return best
    probabilities = _warped(scores, row.params)
    return int(row.generator.choice(len(probabilities), p=probabilities))


def processed(logits: Logits, ids: Sequence[int], before: int, params: GenerateParams, eos: Sequence[int]) -> Logits:
    """Logits [V] after the penalties, a copy. `ids` are the decoder ids so far, `before` of which are no answer."""
    scores = logits.copy()
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(ids))
        values = scores[seen]
        scores[seen] = np.where(values < 0, values * params.repetition_penalty, values / params.repetition_penalty)
    if params.no_repeat_ngram_size:
        scores[_banned(ids, params.no_repeat_ngram_size)] = -np.inf
    if len(ids) - before < params.min_new_tokens:
        scores[list(eos)] = -np.inf
    return scores


def _banned(ids: Sequence[int], size: int) -> list[int]:
    """Tokens that would repeat an n-gram of `size` already in `ids`."""
    tail = tuple(ids[len(ids) - size + 1 :])
    starts = range(len(ids) - size + 1)
    return [ids[start + size - 1] for start in starts if tuple(ids[start : start + size - 1]) == tail]


def _warped(scores: Logits, params: GenerateParams) -> NDArray[np.float64]:
    """Sampling probabilities [V] after temperature, top-k and top-p."""
    values = scores.astype(np.float64) / params.temperature
    if 0 < params.top_k < len(values):
        values[values < np.partition(values, -params.top_k)[-params.top_k]] = -np.inf
    if params.top_p < 1.0:
        order = np.argsort(values, kind="stable")
        below = np.cumsum(_softmax(values[order])) <= 1.0 - params.top_p
        below[-1] = False
        values[order[below]] = -np.inf
    return _softmax(values)


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(values - values.max())
    total: NDArray[np.float64] = weights / weights.sum()
    return total


def renumbered(steps: Iterator[Sequence[TokenEvent]], indices: Sequence[int]) -> Iterator[Sequence[TokenEvent]]:
    """Events of a part of a batch, with the indices they have in the whole batch."""
    if list(indices) == list(range(len(indices))):
        yield from steps
        return
    for events in steps:
        yield [
            TokenEvent(index=indices[event.index], token_id=event.token_id, logprob=event.logprob, finish=event.finish)
            for event in events
        ]
