"""16-bit activations on device cuda-sim (and cuda, marker `gpu`): how far from fp32, finite, and alone as in company.

fp16 and bf16 store activations and caches in their own type, int8 and int4 weights meet bf16 activations. The residual
is fp32 in all of them. More than 16 slots decode by the tensor-core kernels, fewer row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import t5
from engines.errors import ModelInvalid, SpecInvalid
from engines.t5.partition import partition
from tests.engines.t5 import checkpoints as ck
from tests.kernels.cuda.groups import devices
from tests.kernels.cuda.sim import Sim

Family = Callable[[str], tuple[Any, Path]]
NAMES = [member.name for member in ck.FAMILY]
TILED_SLOTS = 17
"""The fewest slots with which decoding takes tiles of rows."""
WAYS = {"rows": 2, "tiles": TILED_SLOTS}
HALF = {"fp16": ck.torch.float16, "bf16": ck.torch.bfloat16}


def _load(folder: Path, device: str, dtype: str, **options: Any) -> t5.T5Engine:
    return t5.load(folder, dtype=dtype, device=device, threads=1, **options)


def _every_member_in_some_way() -> list[tuple[str, str, str]]:
    """(member, dtype, way): flan in all four, each other member in one."""
    ways = [(dtype, way) for dtype in HALF for way in WAYS]
    others = [(name, *ways[i % 4]) for i, name in enumerate(NAMES) if name != "flan"]
    return [*(("flan", *each) for each in ways), *others]


@pytest.mark.parametrize(("name", "dtype", "way"), _every_member_in_some_way())
def test_logits_and_tokens_stay_near_fp32(name: str, dtype: str, way: str, family: Family, device: str) -> None:
    """Root mean square of the logits' error relative to their spread, and the share of equal argmaxes, teacher-forced.

    Random weights are unforgiving: Hugging Face's own halves are 0.0018 to 0.0039 (fp16) and 0.015 to 0.033 (bf16) off.
    """
    error, agreement = {"fp16": (0.004, 0.94), "bf16": (0.03, 0.85)}[dtype]
    model, folder = family(name)
    prompts = ck.prompts(2, model.config.vocab_size, seed=51, longest=12)
    with _load(folder, "cpu", "fp32") as exact, _load(folder, device, dtype, max_slots=WAYS[way]) as engine:
        want = np.concatenate([exact.score(p, [0, *p]) for p in prompts])
        got = np.concatenate([engine.score(p, [0, *p]) for p in prompts])
    assert np.sqrt(((got - want) ** 2).mean() / want.var()) < error
    assert (got.argmax(1) == want.argmax(1)).mean() >= agreement


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "error"), [("int8", 0.03), ("int4", 0.03)])
def test_integer_weights_give_what_the_same_weights_give_beside_wider_activations(
    dtype: str, error: float, way: str, family: Family, device: str
) -> None:
    """The CPU rounds activations to int16 (int8) or int8 (int4); both devices hold the same integers."""
    model, folder = family("flan")
    prompt = ck.prompts(1, model.config.vocab_size, seed=52, longest=12)[0]
    with _load(folder, "cpu", dtype) as cpu, _load(folder, device, dtype, max_slots=WAYS[way]) as engine:
        want, got = (each.score(prompt, [0, *prompt]) for each in (cpu, engine))
    assert np.sqrt(((got - want) ** 2).mean() / want.var()) < error


@pytest.mark.parametrize(("name", "dtype"), [("flan", "fp16"), ("flan", "bf16"), ("t5-1.0", "fp16"), ("ul2", "bf16")])
def test_encoder_error_is_below_hugging_face_s_at_every_quantile(
    name: str, dtype: str, family: Family, device: str
) -> None:
    model, folder = family(name)
    prompts = ck.prompts(3, model.config.vocab_size, seed=53, longest=24)
    half = ck.transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=HALF[dtype]).eval()
    with _load(folder, device, dtype) as engine:
        ours = engine.encode(prompts)
    errors: tuple[list[np.ndarray], ...] = ([], [])
    for prompt, states in zip(prompts, ours, strict=True):
        ids = ck.torch.tensor([prompt])
        with ck.torch.no_grad():
            exact = model.get_encoder()(input_ids=ids).last_hidden_state[0].numpy()
            theirs = half.get_encoder()(input_ids=ids).last_hidden_state[0].float().numpy()
        for found, into in zip((states, theirs), errors, strict=True):
            into.append(np.abs(found - exact).ravel())
    for quantile in (0.5, 0.99, 0.999):
        mine, hugging_face = (np.quantile(np.concatenate(each), quantile) for each in errors)
        assert mine < hugging_face


@pytest.mark.parametrize(
    ("dtype", "slots"), [("fp16", 6), ("fp16", TILED_SLOTS), ("bf16", TILED_SLOTS), ("int8", 6), ("int4", TILED_SLOTS)]
)
def test_a_row_has_the_same_bits_alone_and_in_company(dtype: str, slots: int, family: Family, device: str) -> None:
    model, folder = family("flan")
    prompts = ck.prompts(3, model.config.vocab_size, seed=54, longest=40)
    with _load(folder, device, dtype, max_slots=slots) as engine:
        alone = [engine.encode([p])[0] for p in prompts]
        for one, among in zip(alone, engine.encode(prompts), strict=True):
            assert np.array_equal(one, among)
        assert _tokens(engine, prompts) == [_tokens(engine, [p])[0] for p in prompts]
        beams = {"max_new_tokens": 4, "num_beams": 2}
        assert engine.generate(prompts[:2], **beams) == [engine.generate([p], **beams)[0] for p in prompts[:2]]


def _tokens(engine: t5.T5Engine, prompts: list[list[int]]) -> list[list[tuple[int | None, float]]]:
    """(token, its log-probability) of every step of each prompt, decoded together."""
    params = t5.Params(max_new_tokens=4, ignore_eos=True, return_logprobs=True)
    found: dict[int, list[tuple[int | None, float]]] = {engine.submit(p, params): [] for p in prompts}
    while any(engine.load()):
        for event in engine.step():
            found[event.handle].append((event.token, event.logprob))
    return list(found.values())


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A FLAN-shaped checkpoint whose ff hidden and whose wo outputs both leave fp16's range."""
    member = next(m for m in ck.FAMILY if m.name == "flan")
    model = ck.build(member)
    with ck.torch.no_grad():
        for name, weight in model.named_parameters():
            if ".wi_" in name or ".wo." in name:
                weight *= 100
    return model, ck.save(model, tmp_path_factory.mktemp("large") / "flan", member)


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_beyond_fp16_s_range_stays_finite_and_near_fp32(
    overflowing: tuple[Any, Path], way: str, device: str
) -> None:
    """Within 2.5e-3 of the range: the same model with the usual weights is off by 1.2e-3."""
    model, folder = overflowing
    prompt = ck.prompts(1, model.config.vocab_size, seed=55)[0]
    seen: dict[str, float] = {}
    for name, module in model.named_modules():
        if name.endswith(".wo"):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: seen.update(
                    {f"{name} in": float(inputs[0].abs().max()), f"{name} out": float(output.abs().max())}
                )
            )
    with ck.torch.no_grad():
        want = (
            model(input_ids=ck.torch.tensor([prompt]), decoder_input_ids=ck.torch.tensor([[0, 5, 6]])).logits[0].numpy()
        )
        states = model.get_encoder()(input_ids=ck.torch.tensor([prompt])).last_hidden_state[0].numpy()
    assert min(value for name, value in seen.items() if name.endswith("in")) > 65504
    assert max(seen.values()) > 1e6
    with _load(folder, device, "fp16", max_slots=WAYS[way]) as engine:
        got, rows = engine.score(prompt, [0, 5, 6]), engine.encode([prompt])[0]
    np.testing.assert_allclose(rows, states, atol=2.5e-3 * np.ptp(states))
    np.testing.assert_allclose(got, want, atol=2.5e-3 * np.ptp(want))


def test_a_partition_in_fp16_serves_the_cuda_device(family: Family, device: str, tmp_path: Path) -> None:
    _, folder = family("umt5")
    partition(folder, "fp16", 1, tmp_path / "half")
    with _load(folder, device, "fp16") as whole, _load(tmp_path / "half", device, "fp16") as parted:
        assert np.array_equal(whole.score([5, 9, 1], [0, 4]), parted.score([5, 9, 1], [0, 4]))


def test_shards_of_16_bit_activations_are_added_in_fp32(family: Family, device: str) -> None:
    _, folder = family("umt5")
    found = []
    for degree in (1, 2):
        with _load(folder, device, "fp16", tensor_parallel_degree=degree) as engine:
            found.append(engine.score([5, 9, 8, 1], [0, 4, 7]))
    np.testing.assert_allclose(found[0], found[1], atol=2e-3 * np.ptp(found[0]))


@pytest.mark.parametrize(("dtype", "slots", "peers"), [("fp16", 2, True), ("bf16", TILED_SLOTS, False)])
def test_two_gpus_give_the_bits_of_two_ranks_on_one(
    dtype: str, slots: int, peers: bool, family: Family, sim: Sim
) -> None:
    _, folder = family("umt5")
    found = []
    for count in (1, 2):
        with (
            devices(sim, count, peers=peers, schedule=count),
            _load(folder, "cuda-sim", dtype, max_slots=slots, tensor_parallel_degree=2) as engine,
        ):
            ids = engine.generate([[5, 9, 8, 1], [7, 1]], max_new_tokens=3, ignore_eos=True)
            found.append((ids, engine.score([5, 9, 1], [0, 4]), engine.encode([[5, 9, 1]])[0]))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])
    assert np.array_equal(found[0][2], found[1][2])


def test_fp16_is_refused_on_the_cpu_and_for_weights_it_cannot_hold(
    overflowing: tuple[Any, Path], device: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecInvalid, match="no fp16 on the CPU: CPUs have no fp16 arithmetic worth using; bf16"):
        t5.load(overflowing[1], dtype="fp16")
    member = next(m for m in ck.FAMILY if m.name == "flan")
    model = ck.build(member)
    with ck.torch.no_grad():
        model.encoder.block[0].layer[1].DenseReluDense.wo.weight[0, 0] = 1e6
    with pytest.raises(ModelInvalid, match="a weight of magnitude 1e\\+06 does not fit fp16: use bf16 or fp32"):
        _load(ck.save(model, tmp_path / "far", member), device, "fp16")
