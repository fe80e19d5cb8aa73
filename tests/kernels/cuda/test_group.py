"""Tensor parallelism over several simulated GPUs: the tokens of one GPU and of the CPU device, and nothing left behind.

Streams of different GPUs take turns in several orders, so a missing event wait shows; without peer access memory of
another GPU cannot be touched. The same cases run on real GPUs where there are two (marker `gpu`).
"""

from __future__ import annotations

import ctypes as c
import faulthandler
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import t5
from engines.errors import ModelInvalid, SpecInvalid
from tests.engines.t5 import checkpoints as ck
from tests.kernels.build import ensure_library
from tests.kernels.cuda import gpu
from tests.kernels.cuda.groups import devices, live
from tests.kernels.cuda.sim import Sim
from tests.kernels.cuda.test_steps import calls

FOUR_HEADS = "umt5"
PARAMS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 2},
    "sampled": {"do_sample": True, "seed": 5, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3},
    "greedy": {},
}
# Numbers of the events of two GPUs in order of creation: two per GPU of its own, then three per GPU of the group.
EVENTS = {
    "control": (),
    "parts are ready": (4, 7),
    "parts are read": (5, 8),
    "the first goes before": (6,),
    "the others have come": (9,),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ensure_library()
    member = next(m for m in ck.FAMILY if m.name == FOUR_HEADS)
    ck.torch.set_num_threads(1)
    return ck.save(ck.build(member), tmp_path_factory.mktemp("group") / FOUR_HEADS, member)


@pytest.fixture(scope="module")
def expected(folder: Path) -> Callable[[str], list[list[int]]]:
    """What the CPU device says, by mode."""
    with t5.load(folder, threads=1, max_slots=4) as engine:
        known = {name: _ids(engine, name) for name in PARAMS}
    return known.__getitem__


def _ids(engine: Any, mode: str) -> list[list[int]]:
    """Two requests, long enough to run, record and replay a step."""
    found: list[list[int]] = engine.generate(
        [[5, 9, 17, 1], [40, 1]], max_new_tokens=4, ignore_eos=True, **PARAMS[mode]
    )
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(sim: Sim) -> Iterator[None]:
    before = live(sim)
    yield
    assert live(sim) == before


def _load(folder: Path, degree: int) -> Any:
    return t5.load(folder, device="cuda-sim", tensor_parallel_degree=degree, threads=1, max_slots=4)


@pytest.mark.parametrize(
    ("degree", "peers", "schedule"), [(2, True, 3), (2, False, 2), (2, False, 0), (4, True, 2), (4, False, 3)]
)
def test_ids_are_the_cpu_device_s(
    sim: Sim, folder: Path, expected: Callable[[str], list[list[int]]], degree: int, peers: bool, schedule: int
) -> None:
    with devices(sim, degree, peers=peers, schedule=schedule), _load(folder, degree) as engine:
        assert engine.about.startswith(f"{degree} GPUs")
        assert ("with peer access" in engine.about) == peers
        for mode in PARAMS if degree == 2 and schedule else ("greedy",):
            assert _ids(engine, mode) == expected(mode), mode
        before = calls(sim)
        assert _ids(engine, "greedy") == expected("greedy")
        assert calls(sim).captures == before.captures
        assert calls(sim).replays == before.replays + 4, "one graph for all GPUs"


def test_each_gpu_holds_its_own_shards(sim: Sim, folder: Path) -> None:
    """Less than all weights fit into each of four GPUs, and that is enough."""
    with t5.load(folder, threads=1) as engine:
        room = (1 << 20) + int(0.7 * engine.weight_bytes)  # 1 MiB: what goes up with each phase

    def fits(count: int) -> bool:
        with devices(sim, count):
            sim.lib.sim_set_capacity(c.c_size_t(room))
            try:
                with _load(folder, 4) as engine:
                    engine.generate([[5, 9, 1]], max_new_tokens=2)
            except MemoryError:
                return False
            return True

    assert fits(4)
    assert not fits(1)


def _forked(work: Callable[[], bool]) -> str:
    """'same', 'other' or 'stopped' by an error or a crash: without its waits a program may read anything."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return {0: "same", 1: "other"}.get(os.waitstatus_to_exitcode(status), "stopped")


@pytest.mark.parametrize("event", EVENTS)
def test_every_sort_of_wait_between_gpus_is_needed(
    sim: Sim, folder: Path, expected: Callable[[str], list[list[int]]], event: str
) -> None:
    """Mutants: streams that never wait for one sort of event. Some order of turns shows it, and none a sound one."""
    wanted = expected("sampled")

    def outcome(schedule: int) -> str:
        def work() -> bool:
            with devices(sim, 2, schedule=schedule):
                sim.lib.sim_forget_waits(c.c_ulonglong(sum(1 << n for n in EVENTS[event])))
                with _load(folder, 2) as engine:
                    return _ids(engine, "sampled") == wanted

        return _forked(work)

    found = [outcome(schedule) for schedule in (0, 2, 3, 5)]
    assert (set(found) == {"same"}) == (event == "control"), found


def test_memory_of_another_gpu_is_out_of_reach_without_peer_access(sim: Sim, folder: Path) -> None:
    with devices(sim, 2):
        sim.lib.sim_lie_about_peers()
        with (
            _load(folder, 2) as engine,
            pytest.raises(ModelInvalid, match=r"touched memory of device [01] without peer"),
        ):
            _ids(engine, "greedy")
        sim.forget_errors()


def test_a_second_gpu_without_room_is_one_sentence(sim: Sim, folder: Path) -> None:
    with devices(sim, 2):
        sim.lib.sim_set_device_capacity(1, c.c_size_t(1 << 20))
        with pytest.raises(MemoryError, match=r"^GPU 1: cuMemAlloc of \d+ bytes: out of memory$"):
            _load(folder, 2).generate([[5, 9, 1]], max_new_tokens=2)


def test_too_few_gpus_are_refused_and_one_runs_all_ranks(
    sim: Sim, folder: Path, expected: Callable[[str], list[list[int]]]
) -> None:
    with devices(sim, 3), pytest.raises(SpecInvalid, match="degree 4: expected a GPU per rank, or one for all, got 3"):
        _load(folder, 4)
    with devices(sim, 1), _load(folder, 4) as engine:
        assert engine.about == ""
        assert _ids(engine, "greedy") == expected("greedy")


def test_requests_join_and_leave_over_two_gpus(sim: Sim, folder: Path) -> None:
    with t5.load(folder, threads=1, max_slots=2) as engine:
        alone = [engine.generate([ids], max_new_tokens=6, ignore_eos=True)[0] for ids in ([5, 9, 1], [8, 1])]
        logits = engine.score([5, 9, 1], [0, 3, 4])
    with devices(sim, 2, peers=False, schedule=3), _load(folder, 2) as engine:
        first = engine.submit([5, 9, 1], t5.Params(max_new_tokens=6, ignore_eos=True))
        events = engine.step(2)
        engine.submit([8, 1], t5.Params(max_new_tokens=6, ignore_eos=True))
        while more := engine.step():
            events += more
        assert [e.token for e in events if e.handle == first] == alone[0]
        assert [e.token for e in events if e.handle != first] == alone[1]
        np.testing.assert_allclose(engine.score([5, 9, 1], [0, 3, 4]), logits, atol=2e-5 * np.ptp(logits))


@pytest.mark.parametrize("peers", [True, False], ids=["peers", "staged"])
def test_two_gpus_give_the_bits_of_two_ranks_on_one(sim: Sim, folder: Path, peers: bool) -> None:
    rows = []
    for count in (1, 2):
        with devices(sim, count, peers=peers, schedule=2), _load(folder, 2) as engine:
            rows.append((engine.encode([[5, 9, 1], [8, 1]]), engine.score([5, 9, 1], [0, 3, 4])))
    assert [a.tobytes() for a in rows[0][0]] == [a.tobytes() for a in rows[1][0]]
    assert rows[0][1].tobytes() == rows[1][1].tobytes()


@pytest.mark.gpu
@pytest.mark.skipif(gpu.count() < 2, reason=gpu.missing() or "there is one GPU only")
def test_ids_over_real_gpus(folder: Path, expected: Callable[[str], list[list[int]]]) -> None:
    degree = 4 if gpu.count() >= 4 else 2
    with t5.load(folder, device="cuda", tensor_parallel_degree=degree, threads=1, max_slots=4) as engine:
        assert engine.about.startswith(f"{degree} GPUs")
        for mode in PARAMS:
            assert _ids(engine, mode) == expected(mode), mode
