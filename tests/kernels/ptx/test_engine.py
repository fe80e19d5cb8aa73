"""A whole tiny T5 on interpreted PTX: runtime, driver functions and compiled kernels, as they will meet a GPU.

Every kernel launch of the engine runs the instructions that NVRTC wrote for sm_80.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import t5
from tests.engines.t5 import checkpoints as ck
from tests.kernels.build import ensure_library
from tests.kernels.cuda.groups import devices
from tests.kernels.cuda.sim import build as build_sim
from tests.kernels.ptx import sources
from tests.kernels.ptx.interpreter import PtxMachine, build, private_copy

REASON = sources.missing("nvrtc")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> PtxMachine:
    build()
    return PtxMachine(private_copy(tmp_path_factory.mktemp("driver")), sources.ptx("nvrtc"))


@pytest.fixture
def on_ptx(machine: PtxMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[PtxMachine]:
    """Engines on device cuda-sim find the interpreter where they look for the simulator."""
    ensure_library()
    monkeypatch.setenv("T5K_CUDA_SIM", machine.lib._name)
    machine.order(0)
    yield machine
    machine.noise(0)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    root = tmp_path_factory.mktemp("family")
    ck.torch.set_num_threads(1)
    members = {member.name: member for member in ck.FAMILY if member.name in ("flan", "umt5")}
    made = {name: ck.build(member) for name, member in members.items()}
    return {name: (made[name], ck.save(made[name], root / name, member)) for name, member in members.items()}


@pytest.mark.parametrize("name", ["flan", "umt5"])
def test_greedy_ids_equal_hugging_face(name: str, family: dict[str, tuple[Any, Path]], on_ptx: PtxMachine) -> None:
    model, folder = family[name]
    prompts = ck.prompts(3, model.config.vocab_size, seed=21, longest=20)
    expected = ck.generated(model, prompts, max_new_tokens=6, do_sample=False, num_beams=1)
    before = on_ptx.steps()
    with t5.load(folder, device="cuda-sim", max_slots=2) as engine:
        assert engine.generate(prompts, max_new_tokens=6) == expected
    assert on_ptx.steps() - before > 1_000_000


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ({"tensor_parallel_degree": 2}, {}),
        ({"max_slots": 3}, {"num_beams": 3, "num_return_sequences": 2}),
    ],
    ids=lambda each: "-".join(map(str, each.values())) or "greedy",
)
def test_every_mode_gives_the_cpu_device_s_ids(
    options: dict[str, Any], params: dict[str, Any], family: dict[str, tuple[Any, Path]], on_ptx: PtxMachine
) -> None:
    model, folder = family["umt5"]
    prompts = ck.prompts(2, model.config.vocab_size, seed=22, longest=16)
    found = []
    for device in ("cpu", "cuda-sim"):
        with t5.load(folder, device=device, **({"max_slots": 2} | options)) as engine:
            found.append(engine.generate(prompts, max_new_tokens=5, **params))
    assert found[0] == found[1]


@pytest.mark.parametrize("peers", [True, False], ids=["peers", "staged"])
def test_two_gpus_give_the_cpu_device_s_ids(
    family: dict[str, tuple[Any, Path]], on_ptx: PtxMachine, peers: bool
) -> None:
    """Every access of the compiled kernels is checked: none reaches another GPU unless they are peers."""
    _, folder = family["umt5"]
    with t5.load(folder, threads=1) as engine:
        expected = engine.generate([[5, 9, 1]], max_new_tokens=4, ignore_eos=True)
    with (
        devices(on_ptx, 2, peers=peers, schedule=2),
        t5.load(folder, device="cuda-sim", tensor_parallel_degree=2) as engine,
    ):
        assert engine.about.startswith("2 GPUs")
        assert engine.generate([[5, 9, 1]], max_new_tokens=4, ignore_eos=True) == expected


@pytest.mark.parametrize(("dtype", "slots"), [("fp16", 2), ("bf16", 17), ("int8", 17), ("int4", 17)])
def test_16_bit_activations_give_the_simulator_s_scores(
    dtype: str, slots: int, family: dict[str, tuple[Any, Path]], on_ptx: PtxMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32 sums that differ in their last bits round to other 16-bit numbers now and then: half of what those cost."""
    _, folder = family["umt5"]
    found = []
    for library in (on_ptx.lib._name, str(build_sim())):
        monkeypatch.setenv("T5K_CUDA_SIM", library)
        with t5.load(folder, device="cuda-sim", dtype=dtype, max_slots=slots) as engine:
            found.append(engine.score([5, 9, 8, 1], [0, 4, 7]))
            assert len(engine.generate([[5, 9, 1], [7, 1]], max_new_tokens=3, ignore_eos=True)[1]) == 3
    allowed = (0.002 if dtype == "fp16" else 0.015) * np.ptp(found[1])
    np.testing.assert_allclose(found[0], found[1], atol=allowed)


def test_the_manual_s_approximation_errors_do_not_change_the_ids(
    family: dict[str, tuple[Any, Path]], on_ptx: PtxMachine
) -> None:
    model, folder = family["flan"]
    prompts = ck.prompts(2, model.config.vocab_size, seed=23, longest=16)
    rows = []
    for seed in (0, 1):
        on_ptx.noise(seed)
        with t5.load(folder, device="cuda-sim", max_slots=2) as engine:
            rows.append((engine.generate(prompts, max_new_tokens=5), engine.encode(prompts)))
    assert rows[0][0] == rows[1][0]
    for a, b in zip(rows[0][1], rows[1][1], strict=True):
        assert not np.array_equal(a, b), "no approximate instruction took part"
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())


def test_device_memory_is_given_back(family: dict[str, tuple[Any, Path]], on_ptx: PtxMachine) -> None:
    on_ptx.lib.sim_allocations.restype = c.c_size_t
    before = on_ptx.lib.sim_allocations()
    with t5.load(family["flan"][1], device="cuda-sim") as engine:
        engine.generate([[5, 1]], max_new_tokens=2)
        assert on_ptx.lib.sim_allocations() > before
    assert on_ptx.lib.sim_allocations() == before
