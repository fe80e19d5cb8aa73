"""Decoding runs ahead of the host: one graph per shape, no waiting within a step, and the same tokens as on the CPU.

The driver's calls are counted on the simulator, which runs an operation only when something waits for it.
"""

from __future__ import annotations

import ctypes as c
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from engines import t5
from tests.engines.t5 import checkpoints as ck
from tests.kernels.build import ensure_library
from tests.kernels.cuda.sim import Sim


class Calls(NamedTuple):
    """Driver calls so far."""

    launches: int
    captures: int
    replays: int
    synchronised: int
    waited: int


def calls(sim: Sim) -> Calls:
    five = (c.c_size_t * 5)()
    sim.lib.sim_calls(five)
    return Calls(*five)


@pytest.fixture(scope="module")
def umt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ensure_library()
    member = next(m for m in ck.FAMILY if m.name == "umt5")
    ck.torch.set_num_threads(1)
    return ck.save(ck.build(member), tmp_path_factory.mktemp("steps") / "umt5", member)


def _greedy(new: int, **more: Any) -> t5.Params:
    return t5.Params(max_new_tokens=new, ignore_eos=True, **more)


@pytest.mark.parametrize("params", [{}, {"return_logprobs": True, "no_repeat_ngram_size": 2}])
def test_a_step_is_one_graph_and_no_synchronisation(sim: Sim, umt5: Path, params: dict[str, Any]) -> None:
    with t5.load(umt5, device="cuda-sim", max_slots=2, threads=1) as engine:
        for ids in ([5, 9, 1], [7, 1]):
            engine.submit(ids, _greedy(16, **params))
        for _ in range(3):
            assert len(engine.step()) == 2
        before = calls(sim)
        for _ in range(10):
            assert len(engine.step()) == 2
        after = calls(sim)
        assert after.captures == before.captures
        assert after.launches == before.launches
        assert after.synchronised == before.synchronised
        assert after.replays - before.replays == 10
        assert after.waited - before.waited == 10


def test_a_shape_is_recorded_once_whoever_is_in_the_batch(sim: Sim, umt5: Path) -> None:
    with t5.load(umt5, device="cuda-sim", max_slots=2, threads=1) as engine:
        prompts = [[5, 9, 1], [7, 1]]
        first = engine.generate(prompts, max_new_tokens=6, ignore_eos=True)
        before = calls(sim)
        assert engine.generate(prompts[::-1], max_new_tokens=6, ignore_eos=True) == first[::-1]
        after = calls(sim)
        assert after.captures == before.captures
        assert after.replays - before.replays == 6


def test_no_step_is_issued_beyond_the_last_token(sim: Sim, umt5: Path) -> None:
    with t5.load(umt5, device="cuda-sim", max_slots=1, threads=1) as engine:
        engine.generate([[5, 1]], max_new_tokens=4, ignore_eos=True)
        before = calls(sim)
        engine.generate([[5, 1]], max_new_tokens=4, ignore_eos=True)
        assert calls(sim).replays - before.replays == 4


def _events(folder: Path, device: str, arrivals: list[tuple[int, list[int], t5.Params]]) -> dict[int, list[Any]]:
    """Requests that join at given steps; what each got: tokens, ends and log-probabilities."""
    found: dict[int, list[Any]] = {}
    with t5.load(folder, device=device, max_slots=3, threads=1) as engine:
        handles: dict[int, int] = {}
        for step in range(60):
            for index, (at, ids, params) in enumerate(arrivals):
                if at == step:
                    handles[engine.submit(ids, params)] = index
            for event in engine.step():
                found.setdefault(handles[event.handle], []).append((event.token, event.finish, event.logprob))
    return found


def test_requests_of_every_kind_join_and_leave_as_on_the_cpu(sim: Sim, umt5: Path) -> None:
    rng = np.random.default_rng(4)

    def prompt(n: int) -> list[int]:
        return [*rng.integers(3, 250, n).tolist(), 1]

    arrivals = [
        (0, prompt(9), _greedy(9)),
        (0, prompt(70), t5.Params(max_new_tokens=12, return_logprobs=True)),
        (2, prompt(3), t5.Params(max_new_tokens=5, num_beams=2, length_penalty=0.7)),
        (3, prompt(5), _greedy(14, do_sample=True, seed=11, top_k=12, temperature=0.8)),
        (4, prompt(4), _greedy(7, repetition_penalty=1.4, no_repeat_ngram_size=2)),
        (5, prompt(6), t5.Params(max_new_tokens=8, min_new_tokens=6)),
        (20, prompt(2), _greedy(3, bad_words_ids=[[7], [9, 11]])),
    ]
    got, want = (_events(umt5, device, arrivals) for device in ("cuda-sim", "cpu"))
    assert sorted(got) == sorted(want) == list(range(len(arrivals)))
    for index in got:
        assert [e[:2] for e in got[index]] == [e[:2] for e in want[index]], index
        np.testing.assert_allclose([e[2] for e in got[index]], [e[2] for e in want[index]], atol=2e-4)


def test_a_long_source_is_split_and_a_long_answer_changes_its_graph(sim: Sim, umt5: Path) -> None:
    source = [*np.random.default_rng(5).integers(3, 250, 530).tolist(), 1]

    def work(device: str) -> tuple[list[list[int]], list[list[int]]]:
        with t5.load(umt5, device=device, max_slots=1, threads=1) as engine:
            return (
                engine.generate([source], max_new_tokens=3, ignore_eos=True),
                engine.generate([[4, 1]], max_new_tokens=70, ignore_eos=True),
            )

    assert work("cuda-sim") == work("cpu")


def test_a_cancelled_request_leaves_and_the_others_go_on(sim: Sim, umt5: Path) -> None:
    with t5.load(umt5, device="cuda-sim", max_slots=2, threads=1) as engine:
        expected = engine.generate([[5, 9, 1]], max_new_tokens=8, ignore_eos=True)[0]
        stays, leaves = engine.submit([5, 9, 1], _greedy(8)), engine.submit([8, 1], _greedy(8))
        tokens = [e.token for e in engine.step(3) if e.handle == stays]
        engine.cancel(leaves)
        while events := engine.step():
            tokens += [e.token for e in events if e.handle == stays]
            assert all(e.finish == "cancelled" for e in events if e.handle == leaves)
        assert tokens == expected
