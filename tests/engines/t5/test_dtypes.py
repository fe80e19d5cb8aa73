"""bf16, int8 and int4: how far from fp32, and finite where fp16 would not be."""

from __future__ import annotations

import numpy as np
import pytest

from engines.t5.config import read_config
from engines.t5.reference import Reference
from engines.t5.weights import Checkpoint
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy


def states_error(engine, exact, prompts):
    """Absolute errors of all encoder outputs."""
    return np.concatenate([abs(e - x).ravel() for e, x in zip(engine.encode(prompts), exact, strict=True)])


@pytest.mark.parametrize("name", [m.name for m in ck.FAMILY])
def test_fp32_is_within_rounding_of_the_float64_reference(name, family, load):
    model, folder = family(name)
    reference = Reference(read_config(folder), Checkpoint(folder))
    prompt = ck.prompts(1, model.config.vocab_size, seed=41, longest=60)[0]
    target = [0, *prompt[:10]]
    expected = reference.logits(prompt, target)
    got = load(folder).score(prompt, target)
    assert abs(got - expected).max() < 2e-5 * np.ptp(expected)


@pytest.mark.parametrize("name", ["flan", "t5-1.0", "ul2"])
def test_bf16_error_is_below_hugging_face_s_bf16_at_every_quantile(name, family, load):
    model, folder = family(name)
    prompts = ck.prompts(6, model.config.vocab_size, seed=42)
    exact = load(folder).encode(prompts)
    ours = states_error(load(folder, dtype="bf16"), exact, prompts)
    half = ck.build(next(m for m in ck.FAMILY if m.name == name)).to(ck.torch.bfloat16)
    theirs = []
    for prompt, states in zip(prompts, exact, strict=True):
        with ck.torch.no_grad():
            out = half.get_encoder()(input_ids=ck.torch.tensor([prompt])).last_hidden_state[0]
        theirs.append(abs(out.float().numpy() - states).ravel())
    for quantile in (0.5, 0.99, 0.999):
        assert np.quantile(ours, quantile) < np.quantile(np.concatenate(theirs), quantile)


@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.02), ("int8", 0.06), ("w8a8", 0.1), ("int4", 0.6)])
def test_logits_stay_near_fp32(dtype, most, family, load):
    """Root-mean-square error relative to the spread of the logits, on a random (that is, unforgiving) model."""
    model, folder = family("flan")
    exact_engine, engine = load(folder), load(folder, dtype=dtype)
    errors, spread = [], []
    for prompt in ck.prompts(8, model.config.vocab_size, seed=43):
        exact = exact_engine.score(prompt, [0, *prompt])
        errors.append(((engine.score(prompt, [0, *prompt]) - exact) ** 2).mean())
        spread.append(exact.var())
    assert (np.mean(errors) / np.mean(spread)) ** 0.5 < most


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "w8a8", "int4"])
def test_a_checkpoint_that_would_overflow_fp16_stays_finite(dtype, load, tmp_path):
    member = next(m for m in ck.FAMILY if m.name == "flan")
    model = ck.build(member)
    with ck.torch.no_grad():
        for name, weight in model.named_parameters():
            if "wo" in name:
                weight *= 1e6
    engine = load(ck.save(model, tmp_path / "large", member), dtype=dtype)
    prompt = ck.prompts(1, 250, seed=44)[0]
    states, logits = engine.encode([prompt])[0], engine.score(prompt, [0, 5, 6])
    assert np.isfinite(states).all()
    assert np.isfinite(logits).all()
    if dtype == "fp32":
        with ck.torch.no_grad():
            expected = model.get_encoder()(input_ids=ck.torch.tensor([prompt])).last_hidden_state[0].numpy()
        assert abs(states - expected).max() < 1e-3 * abs(expected).max()


def test_a_broken_model_says_so_with_nan(load, tmp_path):
    member = next(m for m in ck.FAMILY if m.name == "flan")
    model = ck.build(member)
    with ck.torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    engine = load(ck.save(model, tmp_path / "broken", member))
    engine.submit([5, 1])
    assert engine.step()[0].logprob != engine.step()[0].logprob
