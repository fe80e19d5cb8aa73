"""Beam search equals Hugging Face's, hypothesis by hypothesis and score by score."""

from __future__ import annotations

import warnings

import pytest

from engines.t5 import Params
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy

CASES = [
    {"num_beams": 4},
    {"num_beams": 3, "num_return_sequences": 3},
    {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True},
    {"num_beams": 4, "num_return_sequences": 2, "early_stopping": "never"},
    {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 2, "num_return_sequences": 2, "length_penalty": 0.0},
    {"num_beams": 5, "num_return_sequences": 5, "length_penalty": -1.0},
    {"num_beams": 3, "num_return_sequences": 3, "min_new_tokens": 6, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "num_return_sequences": 3, "repetition_penalty": 1.4, "bad_words_ids": [[7], [9, 11]]},
]


def reference(model, prompt, options):
    """Hugging Face's hypotheses (trimmed) and scores of one prompt."""
    ids, mask = ck.padded([prompt], model.config.pad_token_id)
    with warnings.catch_warnings(), ck.torch.no_grad():
        warnings.simplefilter("ignore")
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, return_dict_in_generate=True,
                             output_scores=True, **options)  # fmt: skip
    eos = [model.config.eos_token_id]
    return [ck.trimmed(row, eos) for row in out.sequences.tolist()], out.sequences_scores.tolist()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["t5-1.0", "flan", "umt5"])
def test_hypotheses_and_scores_equal_hugging_face(name, case, family, load):
    model, folder = family(name)
    engine = load(folder, max_slots=4)
    prompts = ck.prompts(5, model.config.vocab_size, seed=11, longest=15)
    options = {"max_new_tokens": 14, **case}
    handles = [engine.submit(p, Params(**options)) for p in prompts]
    got = {h: ([[] for _ in range(case.get("num_return_sequences", 1))], []) for h in handles}
    while engine.load() != (0, 0):
        for event in engine.step():
            got[event.handle][0][event.hypothesis].append(event.token)
            if event.finish:
                got[event.handle][1].append(event.logprob)
    for prompt, handle in zip(prompts, handles, strict=True):
        sequences, scores = reference(model, prompt, options)
        assert got[handle][0] == sequences
        assert got[handle][1] == pytest.approx(scores, rel=1e-4, abs=1e-4)


def test_beams_and_greedy_rows_share_a_batch(family, load):
    _, folder = family("flan")
    engine = load(folder)
    alone_beam = engine.generate([[5, 6, 7, 1]], max_new_tokens=9, num_beams=4)
    alone_greedy = engine.generate([[8, 9, 1]], max_new_tokens=9)
    beam = engine.submit([5, 6, 7, 1], Params(max_new_tokens=9, num_beams=4))
    greedy = engine.submit([8, 9, 1], Params(max_new_tokens=9))
    tokens = {beam: [], greedy: []}
    while engine.load() != (0, 0):
        for event in engine.step():
            tokens[event.handle].append(event.token)
    assert [tokens[beam]] == alone_beam
    assert [tokens[greedy]] == alone_greedy


def test_a_batch_of_beams_keeps_input_order_best_first(family, load):
    _, folder = family("flan")
    engine = load(folder, max_slots=2)
    prompts = [[5, 6, 1], [9, 1], [12, 13, 14, 1]]
    options = {"max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2}
    together = engine.generate(prompts, **options)
    assert together == [row for p in prompts for row in engine.generate([p], **options)]
