"""Every option in one batch, request by request as Hugging Face; requests that come and go, as those alone."""

from __future__ import annotations

import random
import warnings

import pytest

from engines.t5 import Params
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy


def drawn(rng, vocab):
    """Options of one request; those of beams only beside beams."""
    longest, beams = rng.choice([1, 2, 7, 16]), rng.choice([1, 1, 2, 3, 5, 8])
    options = {
        "max_new_tokens": longest,
        "min_new_tokens": rng.choice([0, longest // 2, longest]),
        "repetition_penalty": rng.choice([1.0, 1.3, 0.7, 2.5]),
        "no_repeat_ngram_size": rng.choice([0, 1, 2, 3]),
        "bad_words_ids": rng.choice([[[7], [9, 11]], [[rng.randrange(vocab)] for _ in range(10)]]),
        "num_beams": beams,
    }
    if beams == 1:
        return options, [[rng.randrange(vocab)] for _ in range(20)]
    return options | {
        "num_return_sequences": rng.randint(1, beams),
        "early_stopping": rng.choice([False, True, "never"]),
        "length_penalty": rng.choice([0.0, 0.5, 2.0, -1.0]),
    }, []


def reference(model, prompt, options, stops):
    """Hugging Face's new ids of one prompt."""

    class Stops(ck.transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return ck.torch.tensor([[row[-1]] in stops for row in input_ids.tolist()])

    ids, mask = ck.padded([prompt], model.config.pad_token_id)
    extra = {"stopping_criteria": ck.transformers.StoppingCriteriaList([Stops()])} if stops else {}
    with warnings.catch_warnings(), ck.torch.no_grad():
        warnings.simplefilter("ignore")
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **options, **extra)
    return [ck.trimmed(row, [model.config.eos_token_id]) for row in out.tolist()]


@pytest.mark.parametrize("slots", [1, 3, 32])
@pytest.mark.parametrize("name", ["flan", "odd", "madlad"])
def test_a_batch_of_all_options_equals_hugging_face(name, slots, family, load):
    model, folder = family(name)
    engine, rng = load(folder, max_slots=slots), random.Random(slots)
    asked, got = {}, {}
    for prompt in ck.prompts(8, model.config.vocab_size, seed=61 + slots, longest=60):
        options, stops = drawn(rng, model.config.vocab_size)
        handle = engine.submit(prompt, Params(**options, stop_sequences=stops))
        asked[handle] = (prompt, options, stops)
        got[handle] = [[] for _ in range(options.get("num_return_sequences", 1))]
    while engine.load() != (0, 0):
        for event in engine.step():
            got[event.handle][event.hypothesis].append(event.token)
    for handle, (prompt, options, stops) in asked.items():
        assert got[handle] == reference(model, prompt, options, stops), options


@pytest.mark.parametrize("name", ["t5-1.0", "umt5"])
def test_requests_that_come_and_go_at_random_are_those_alone_bitwise(name, family, load):
    model, folder = family(name)
    rng, alone, engine = random.Random(3), load(folder, max_slots=1), load(folder, max_slots=5)
    waiting = []
    for prompt in ck.prompts(24, model.config.vocab_size, seed=62, longest=150):
        sampled = rng.choice([{}, {"do_sample": True, "seed": rng.randrange(99), "top_p": 0.8, "top_k": 0}])
        options = {"num_beams": rng.randint(2, 4)} if rng.random() < 0.3 else sampled
        waiting.append((prompt, Params(max_new_tokens=rng.randint(1, 20), return_logprobs=True, **options)))
    asked, got, cancelled = {}, {}, set()
    while waiting or engine.load() != (0, 0):
        if waiting and rng.random() < 0.5:
            request = waiting.pop()
            asked[engine.submit(*request)] = request
        if cancelled.isdisjoint(asked) and len(asked) == 12:
            cancelled.add(max(asked))
            engine.cancel(max(asked))
        for event in engine.step(rng.choice([1, 1, 3])):
            got.setdefault(event.handle, []).append((event.token, event.hypothesis, event.logprob))
    for handle in asked.keys() - cancelled:
        alone.submit(*asked[handle])
        wanted = []
        while alone.load() != (0, 0):
            wanted += [(event.token, event.hypothesis, event.logprob) for event in alone.step()]
        assert got[handle] == wanted
    assert len(cancelled) == 1
