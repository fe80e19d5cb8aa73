"""Our token choice equals Hugging Face's processors, and rows stay each other's strangers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engines.api import GenerateParams, GenerateRequest
from engines.generation.token_choice import Decoding, Logits, _warped, padded, processed
from engines.models.checkpoint.special_ids import SpecialIds

pytestmark = pytest.mark.heavy

SPECIAL = SpecialIds(eos=(1,), pad=0, start=0)
VOCAB = 50


def logits(seed: int, rows: int = 1) -> Logits:
    return np.random.default_rng(seed).normal(size=(rows, VOCAB)).astype(np.float32) * 3


def request(**params: object) -> GenerateRequest:
    return GenerateRequest(input_ids=(5, 1), params=GenerateParams(**params))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("penalty", "ngram", "minimum"), [(1.0, 0, 0), (1.7, 0, 0), (0.6, 2, 0), (1.3, 3, 9), (1.0, 1, 4), (1.0, 2, 20)]
)
def test_penalties_are_hugging_faces(seed: int, penalty: float, ngram: int, minimum: int) -> None:
    ids = [0, *np.random.default_rng(seed).integers(2, 6, size=8).tolist()]
    row = logits(seed)
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)])
    if ngram:
        processors.append(NoRepeatNGramLogitsProcessor(ngram))
    if minimum:
        processors.append(MinNewTokensLengthLogitsProcessor(1, minimum, 1, device="cpu"))

    expected = processors(torch.tensor([ids]), torch.from_numpy(row.copy()))[0].numpy()
    params = GenerateParams(repetition_penalty=penalty, no_repeat_ngram_size=ngram, min_new_tokens=minimum)

    np.testing.assert_allclose(processed(row[0], ids, 1, params, (1,)), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.5, 8, 1.0), (1.0, 0, 0.6), (0.9, 20, 0.8)]
)
def test_sampling_probabilities_are_hugging_faces(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    row = logits(seed)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))

    expected = warpers(torch.tensor([[0]]), torch.from_numpy(row.copy()).double())[0].softmax(-1).numpy()
    found = _warped(row[0], GenerateParams(temperature=temperature, top_k=top_k, top_p=top_p))

    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_logprobs_are_the_models_own_and_only_on_request() -> None:
    row = logits(0, 2)
    decoding = Decoding([request(return_logprobs=True), request()], SPECIAL)

    asked, unasked = decoding.step(row)

    assert asked.logprob == pytest.approx(float(torch.from_numpy(row[0]).log_softmax(-1).max()), abs=1e-5)
    assert unasked.logprob is None


def test_a_broken_model_is_seen_even_when_no_logprobs_are_asked() -> None:
    row = logits(0)
    row[0, 7] = np.nan

    for params in ({}, {"do_sample": True}):
        event = Decoding([request(**params)], SPECIAL).step(row.copy())[0]
        assert event.logprob is not None
        assert math.isnan(event.logprob)


def test_rows_end_by_eos_or_their_own_length_and_then_eat_padding() -> None:
    decoding = Decoding([request(max_new_tokens=2), request(max_new_tokens=5)], SPECIAL)
    row = np.zeros((2, VOCAB), dtype=np.float32)
    row[0, 9] = row[1, 8] = 1

    assert [event.finish for event in decoding.step(row)] == [None, None]
    assert [(event.index, event.finish) for event in decoding.step(row)] == [(0, "length"), (1, None)]
    assert decoding.next_ids.tolist() == [[0], [8]]
    row[1, 1] = 2
    assert [(event.index, event.token_id, event.finish) for event in decoding.step(row)] == [(1, 1, "eos")]
    assert decoding.is_done


def test_shrink_keeps_the_unfinished_rows_and_their_numbers() -> None:
    decoding = Decoding([request(max_new_tokens=limit) for limit in (1, 4, 1)], SPECIAL)
    assert decoding.shrink() is None

    decoding.step(logits(1, 3))
    keep = decoding.shrink()

    assert keep is not None
    assert keep.tolist() == [1]
    assert decoding.next_ids.shape == (1, 1)
    assert [event.index for event in decoding.step(logits(2, 1))] == [1]


def test_a_seeded_request_samples_the_same_whoever_is_beside_it() -> None:
    def drawn(batch: list[GenerateRequest], place: int) -> list[int | None]:
        decoding = Decoding(batch, SPECIAL)
        found = []
        for step in range(6):
            rows = np.repeat(logits(step), len(batch), axis=0)
            rows[:, 1] = -100
            found.append(decoding.step(rows)[place].token_id)
        return found

    seeded = request(do_sample=True, seed=5, max_new_tokens=9)
    other = request(do_sample=True, max_new_tokens=9)

    assert drawn([seeded], 0) == drawn([other, seeded, other], 1)


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = padded([GenerateRequest(input_ids=(5, 1), params=GenerateParams()),
                        GenerateRequest(input_ids=(6, 7, 8, 1), params=GenerateParams())], SPECIAL)  # fmt: skip

    assert ids.tolist() == [[5, 1, 0, 0], [6, 7, 8, 1]]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
