"""Ranks and threads: the same tokens as one rank on one thread."""

from __future__ import annotations

import numpy as np
import pytest

from engines.t5 import native
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "w8a8", "int4"])
@pytest.mark.parametrize(("name", "degree"), [("t5-1.0", 2), ("t5-1.0", 4), ("flan", 3), ("umt5", 4), ("byt5", 2)])
def test_ranks_give_the_tokens_of_one_rank(name, degree, dtype, family, load):
    model, folder = family(name)
    prompts = ck.prompts(10, model.config.vocab_size, seed=51)
    one = load(folder, dtype=dtype, max_slots=10)
    many = load(folder, dtype=dtype, max_slots=10, tensor_parallel_degree=degree, threads=3)
    expected = one.generate(prompts, max_new_tokens=16)
    got = many.generate(prompts, max_new_tokens=16)
    if dtype in ("fp32", "int8"):
        assert got == expected  # only the order of a sum over ranks differs
    elif dtype == "bf16":
        # As there, but a sum's last bit can round an activation to the other bf16.
        assert sum(a == b for a, b in zip(got, expected, strict=True)) >= 9
    else:
        # Ranks round activations (w8a8) and groups of weights (int4) over their own part: finer, and not equal.
        common = [next((i for i, p in enumerate(zip(a, b, strict=False)) if p[0] != p[1]), 16)
                  for a, b in zip(expected, got, strict=True)]  # fmt: skip
        assert sum(common) / len(common) > 2


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_do_not_change_a_bit(threads, family, load):
    model, folder = family("flan")
    prompt = ck.prompts(1, model.config.vocab_size, seed=52)[0]
    one, many = load(folder, threads=1), load(folder, threads=threads)
    assert (one.score(prompt, [0, *prompt]) == many.score(prompt, [0, *prompt])).all()


ALIKE = [
    (isa, dtype) for isa in native.ISAS for dtype in ("fp32", "bf16", "int8", "w8a8", "int4")
    if isa != "amx" or dtype == "fp32"
]  # fmt: skip
"""Not AMX's tiles, which round the encoder's attention to bf16."""


@pytest.mark.parametrize(("isa", "dtype"), ALIKE)
def test_an_isa_can_be_forced_and_does_not_change_a_bit(isa, dtype, family, load, monkeypatch):
    if not native.library().t5k_isa(isa.encode()):
        pytest.skip(f"this CPU has no {isa}")
    model, folder = family("flan")
    prompts = ck.prompts(4, model.config.vocab_size, seed=53)
    monkeypatch.setenv("T5K_ISA", "scalar")
    plain = load(folder, dtype=dtype)
    monkeypatch.setenv("T5K_ISA", isa)
    forced = load(folder, dtype=dtype)
    assert forced.isa == isa
    expected, got = plain.score(prompts[0], [0, 5]), forced.score(prompts[0], [0, 5])
    assert (got == expected).all()
    assert forced.generate(prompts, max_new_tokens=8) == plain.generate(prompts, max_new_tokens=8)


@pytest.mark.parametrize("dtype", ["bf16", "int8", "w8a8", "int4"])
@pytest.mark.parametrize("name", ["flan", "t5-1.0"])
def test_tiles_add_no_error_to_what_the_dtype_rounds(name, dtype, family, load, monkeypatch):
    if not native.library().t5k_isa(b"amx"):
        pytest.skip("this CPU has no amx")
    model, folder = family(name)
    prompts = ck.prompts(6, model.config.vocab_size, seed=53)

    def scores(isa, dtype):
        monkeypatch.setenv("T5K_ISA", isa)
        engine = load(folder, dtype=dtype)
        return np.concatenate([engine.score(prompt, [0, 5, 9, 11]) for prompt in prompts])

    exact = scores("scalar", "fp32")
    plain, tiles = (np.sqrt(np.mean((scores(isa, dtype) - exact) ** 2)) for isa in ("scalar", "amx"))
    assert 0 < tiles <= 1.2 * plain


def test_beams_over_ranks(family, load):
    model, folder = family("t5-1.0")
    prompts = ck.prompts(3, model.config.vocab_size, seed=54)
    options = {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 2}
    expected = load(folder).generate(prompts, **options)
    assert load(folder, tensor_parallel_degree=2).generate(prompts, **options) == expected
