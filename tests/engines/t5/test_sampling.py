"""Logits processors equal Hugging Face's, in its order; sampling follows the processed distribution and the seed."""

from __future__ import annotations

import numpy as np
import pytest

from engines.t5 import Params
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy

PROCESSOR_CASES = [
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": [[5], [6, 7], [2, 3, 4], [1]]},
    {"min_new_tokens": 9},
    {"do_sample": True, "temperature": 0.7, "top_k": 0},
    {"do_sample": True, "top_k": 5},
    {"do_sample": True, "top_k": 0, "top_p": 0.8},
    {"do_sample": True, "top_k": 0, "top_p": 0.0},
    {"do_sample": True, "temperature": 1.6, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2,
     "no_repeat_ngram_size": 2, "bad_words_ids": [[8]], "min_new_tokens": 7},
]  # fmt: skip


@pytest.mark.parametrize("case", PROCESSOR_CASES, ids=str)
def test_processed_scores_equal_hugging_face(case, family, load):
    model, folder = family("flan")
    engine = load(folder)
    history = [0, 5, 6, 2, 3, 5, 6, 4]
    config = model.generation_config.__class__(**{"max_new_tokens": 30, "eos_token_id": 1, "pad_token_id": 0, **case})
    config._eos_token_tensor = ck.torch.tensor([1])
    processors = model._get_logits_processor(
        config, input_ids_seq_length=1, encoder_input_ids=None, prefix_allowed_tokens_fn=None, logits_processor=[]
    )
    for seed in range(5):
        scores = np.random.default_rng(seed).normal(size=250).astype(np.float32) * 3
        scores[17] = scores[18]  # a tie
        expected = processors(ck.torch.tensor([history]), ck.torch.tensor(scores[None])).numpy()[0]
        got = engine.process(Params(**{"max_new_tokens": 30, **case}), history, scores)
        np.testing.assert_allclose(got, expected, rtol=2e-6)


@pytest.mark.parametrize(
    "case", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}, {"bad_words_ids": [[7], [9]]}], ids=str
)
def test_greedy_with_processors_equals_hugging_face(case, family, load):
    model, folder = family("flan")
    prompts = ck.prompts(6, model.config.vocab_size, seed=21)
    expected = ck.generated(model, prompts, max_new_tokens=20, do_sample=False, num_beams=1, **case)
    assert load(folder).generate(prompts, max_new_tokens=20, **case) == expected


def test_samples_follow_the_processed_distribution(family, load):
    _, folder = family("flan")
    engine = load(folder, max_slots=32)
    prompt, draws = [5, 9, 1], 3000
    params = {"do_sample": True, "temperature": 0.8, "top_k": 4}
    logits = engine.process(Params(**params), [0], engine.score(prompt, [0])[0])
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    outs = engine.generate([prompt], max_new_tokens=1, num_return_sequences=draws, seed=7, **params)
    counts = np.bincount([o[0] for o in outs], minlength=250)
    assert counts[expected == 0].sum() == 0
    # Four standard deviations of a binomial count, for the four tokens that are left.
    assert (abs(counts - draws * expected) <= 4 * np.sqrt(draws * expected * (1 - expected)) + 1).all()


def test_a_seed_repeats_and_does_not_depend_on_batch_mates(family, load):
    model, folder = family("flan")
    engine = load(folder, max_slots=5)
    prompts = ck.prompts(5, model.config.vocab_size, seed=22)
    params = {"do_sample": True, "max_new_tokens": 12, "top_k": 0, "seed": 123}
    together = engine.generate(prompts, **params)
    assert together == [engine.generate([p], **params)[0] for p in prompts]
    assert together != engine.generate(prompts, **(params | {"seed": 124}))


def test_requests_with_different_parameters_share_a_batch(family, load):
    _, folder = family("flan")
    engine = load(folder)
    cases = [
        {"max_new_tokens": 8},
        {"max_new_tokens": 5, "do_sample": True, "seed": 3},
        {"max_new_tokens": 8, "repetition_penalty": 2.0},
        {"max_new_tokens": 8, "no_repeat_ngram_size": 2, "min_new_tokens": 8},
    ]
    alone = [engine.generate([[5, 6, 1]], **case)[0] for case in cases]
    handles = [engine.submit([5, 6, 1], Params(**case)) for case in cases]
    tokens = {h: [] for h in handles}
    while engine.load() != (0, 0):
        for event in engine.step():
            tokens[event.handle].append(event.token)
    assert [tokens[h] for h in handles] == alone


def test_logprobs_are_those_of_the_unprocessed_distribution(family, load):
    _, folder = family("flan")
    engine = load(folder)
    handle = engine.submit([5, 6, 1], Params(max_new_tokens=6, return_logprobs=True, repetition_penalty=1.8))
    events = []
    while engine.load() != (0, 0):
        events += engine.step()
    tokens = [e.token for e in events if e.handle == handle]
    logits = engine.score([5, 6, 1], [0, *tokens[:-1]]).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    got = [e.logprob for e in events]
    assert got == pytest.approx([expected[i, t] for i, t in enumerate(tokens)], abs=1e-5)
