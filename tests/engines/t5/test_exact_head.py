"""The exact head: an int8 copy screens, and every greedy token stays what the full product gives."""

from __future__ import annotations

import numpy as np
import pytest

from engines.errors import SpecInvalid
from engines.t5 import pack_rows as panels
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "degree"), [("t5-1.0", 1), ("flan", 1), ("mt5", 4), ("odd", 1), ("madlad", 2), ("byt5", 1)]
)
def test_greedy_tokens_are_the_same(name, degree, dtype, family, load):
    model, folder = family(name)
    prompts = ck.prompts(40, model.config.vocab_size, seed=61)
    options = {"dtype": dtype, "tensor_parallel_degree": degree, "max_slots": 8}
    expected = load(folder, **options).generate(prompts, max_new_tokens=40)
    assert load(folder, exact_head=True, **options).generate(prompts, max_new_tokens=40) == expected


@pytest.mark.parametrize("exact_head", [False, True])
@pytest.mark.parametrize(
    "bans", [{"no_repeat_ngram_size": 2}, {"bad_words_ids": [[7], [9], [11, 12]]}, {"min_new_tokens": 60}], ids=str
)
def test_a_forbidden_argmax_gives_way_to_the_best_allowed_token(exact_head, bans, family, load):
    """Logprobs make the engine look at every score; without them it tries the argmax first. Same tokens either way."""
    model, folder = family("flan")
    prompts = ck.prompts(48, model.config.vocab_size, seed=11)
    engine = load(folder, exact_head=exact_head, max_slots=4)
    options = {"max_new_tokens": 60, **bans}
    expected = engine.generate(prompts, return_logprobs=True, **options)
    assert engine.generate(prompts, **options) == expected
    assert expected != engine.generate(prompts, max_new_tokens=60), "no ban was ever met"


def test_ties_go_to_the_lowest_id_as_without_it(load, tmp_path):
    member = next(m for m in ck.FAMILY if m.name == "flan")
    model = ck.build(member)
    with ck.torch.no_grad():
        model.lm_head.weight[125:] = model.lm_head.weight[:125].clone()
    folder = ck.save(model, tmp_path / "tied", member)
    prompts = ck.prompts(10, 250, seed=62)
    expected = load(folder).generate(prompts, max_new_tokens=12)
    assert load(folder, exact_head=True).generate(prompts, max_new_tokens=12) == expected
    assert max(t for row in expected for t in row) < 125


def test_a_head_of_equal_rows_falls_back_to_the_full_product(load, tmp_path):
    member = ck.Member("flat", "T5", {"vocab_size": 6000, "tie_word_embeddings": False,
                                      "feed_forward_proj": "gated-gelu"}, own_head=True)  # fmt: skip
    model = ck.build(member)
    with ck.torch.no_grad():
        model.lm_head.weight[:] = model.lm_head.weight[:1] + 1e-5 * ck.torch.randn(6000, 64)
    folder = ck.save(model, tmp_path / "flat", member)
    prompts = ck.prompts(6, 250, seed=63)
    expected = load(folder).generate(prompts, max_new_tokens=8)
    assert load(folder, exact_head=True).generate(prompts, max_new_tokens=8) == expected


def test_the_stored_norms_bound_the_int8_copy():
    rows = np.random.default_rng(0).standard_normal((50, 33)).astype(np.float32)
    norms = panels.screen_norms(rows, "fp32")
    residual = rows.astype(np.float64) - panels.stored_values("int8", rows)
    assert (norms[0] >= np.linalg.norm(residual, axis=1)).all()
    assert (norms[0] <= np.linalg.norm(residual, axis=1) * 1.00001).all()
    assert (norms[1] >= np.linalg.norm(panels.stored_values("int8", rows), axis=1)).all()


def test_it_is_refused_where_the_head_is_int8_already(family, load):
    with pytest.raises(SpecInvalid, match="exact_head"):
        load(family("flan")[1], dtype="int8", exact_head=True)
