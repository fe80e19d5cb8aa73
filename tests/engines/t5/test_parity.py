"""Greedy ids equal Hugging Face's eager fp32 ids: 1,000+ prompts x 64 tokens over every family member."""

from __future__ import annotations

import pytest

from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy

NAMES = [m.name for m in ck.FAMILY]

# Prompts per member; 8 members x 128 is 1,024 prompts.
PROMPTS = 128

# engines.md 7.2 N1: below this top-2 margin, relative to the logit range, two correct engines may differ.
TIE = 1e-4


def margin(model, prompt, forced):
    """Hugging Face's top-2 margin at the token after `forced`, relative to the logit range."""
    ids, mask = ck.padded([prompt], model.config.pad_token_id)
    start = model.config.decoder_start_token_id
    with ck.torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ck.torch.tensor([[start, *forced]])).logits
    top = logits[0, -1].topk(2).values
    return float((top[0] - top[1]) / (logits[0, -1].max() - logits[0, -1].min()))


def assert_same(model, prompts, expected, got):
    """Equal, or different only from a tie of Hugging Face's own on; ties are rare."""
    ties = 0
    for prompt, want, have in zip(prompts, expected, got, strict=True):
        if want == have:
            continue
        common = next(i for i, pair in enumerate(zip(want, have, strict=False)) if pair[0] != pair[1])
        assert margin(model, prompt, want[:common]) < TIE, (prompt, want, have)
        ties += 1
    assert ties <= max(1, len(prompts) // 100)


@pytest.mark.parametrize("name", NAMES)
def test_mixed_lengths_in_flight_equal_hugging_face(name, family, load):
    model, folder = family(name)
    prompts = ck.prompts(PROMPTS, model.config.vocab_size, seed=1)
    expected = ck.generated(model, prompts, max_new_tokens=64, do_sample=False, num_beams=1)
    got = load(folder, max_slots=16).generate(prompts, max_new_tokens=64)
    assert_same(model, prompts, expected, got)
    assert len({t for row in expected for t in row}) > 20, "the checkpoint repeats itself: parity would mean little"


@pytest.mark.parametrize("name", NAMES)
def test_batch_of_one_equals_hugging_face(name, family, load):
    model, folder = family(name)
    engine = load(folder, max_slots=1)
    for prompt in ck.prompts(3, model.config.vocab_size, seed=2, longest=70):
        expected = ck.generated(model, [prompt], max_new_tokens=24, do_sample=False, num_beams=1)
        assert_same(model, [prompt], expected, engine.generate([prompt], max_new_tokens=24))


@pytest.mark.parametrize("name", ["flan", "umt5", "odd"])
def test_decode_positions_past_128_equal_hugging_face(name, family, load):
    model, folder = family(name)
    prompts = ck.prompts(4, model.config.vocab_size, seed=3, longest=150)
    options = {"max_new_tokens": 150, "min_new_tokens": 150}
    expected = ck.generated(model, prompts, do_sample=False, num_beams=1, **options)
    assert_same(model, prompts, expected, load(folder).generate(prompts, **options))


def test_decoder_deeper_than_encoder_equals_the_uncached_decoder(load, tmp_path):
    # transformers 5.23 generate() cannot run this shape (its cache is sized from num_layers), so: no cache.
    member = ck.Member("deep", "T5", {"num_layers": 1, "num_decoder_layers": 4, "feed_forward_proj": "gated-gelu",
                                      "tie_word_embeddings": False}, own_head=True)  # fmt: skip
    model = ck.build(member)
    engine = load(ck.save(model, tmp_path / "deep", member))
    for prompt in ck.prompts(4, model.config.vocab_size, seed=4):
        forced = [model.config.decoder_start_token_id]
        for _ in range(12):
            with ck.torch.no_grad():
                logits = model(
                    input_ids=ck.torch.tensor([prompt]), decoder_input_ids=ck.torch.tensor([forced]), use_cache=False
                ).logits
            forced.append(int(logits[0, -1].argmax()))
            if forced[-1] == 1:
                break
        assert engine.generate([prompt], max_new_tokens=12) == [forced[1:]]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_within_2e_4_of_the_logit_range(name, family, load):
    model, folder = family(name)
    prompt = ck.prompts(1, model.config.vocab_size, seed=5, longest=60)[0]
    target = [model.config.decoder_start_token_id, *prompt[:20]]
    with ck.torch.no_grad():
        expected = model(
            input_ids=ck.torch.tensor([prompt]), decoder_input_ids=ck.torch.tensor([target])
        ).logits[0].numpy()  # fmt: skip
    got = load(folder).score(prompt, target)
    assert abs(got - expected).max() < 2e-4 * (expected.max() - expected.min())


@pytest.mark.parametrize("name", NAMES)
def test_encoder_states_equal_hugging_face(name, family, load):
    model, folder = family(name)
    prompts = ck.prompts(9, model.config.vocab_size, seed=6, longest=200)
    ids, mask = ck.padded(prompts, model.config.pad_token_id)
    with ck.torch.no_grad():
        expected = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    for row, states in enumerate(load(folder).encode(prompts)):
        assert abs(states - expected[row, : len(prompts[row])]).max() < 5e-5
