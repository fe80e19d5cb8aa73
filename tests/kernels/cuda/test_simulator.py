"""The simulator itself: wrong kernels are refused with a reason, and the driver's functions behave as CUDA's do."""

from __future__ import annotations

import ctypes as c
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.cuda import jobs
from tests.kernels.cuda.cases import WrongJob
from tests.kernels.cuda.groups import devices
from tests.kernels.cuda.sim import LaunchFailed, Sim, build


@pytest.fixture(scope="module")
def broken() -> Sim:
    """A simulator built from wrong/wrong.cu alone."""
    return Sim(build("cuda-sim-wrong", f"-DT5K_OPS={Path(__file__).parent / 'wrong'}"))


@pytest.fixture
def clean(sim: Sim) -> Iterator[Sim]:
    sim.order(0)
    yield sim
    sim.reset()


NAMED = {
    "diverge": r"barrier divergence: some threads wait at line \d+, others at line \d+",
    "lock_up": r"deadlock: 32 threads at barrier at line \d+; 32 threads at warp collective",
    "leave_early": "names lane 7, which has exited",
    "read_outside_mask": "shuffle reads lane 31, outside its mask 0000ffff",
    "not_in_mask": "whose mask 0000ffff leaves it out",
    "too_much_shared": "52000 bytes of static shared memory",
    "past_shared": r"wrote past the end of static shared memory \(252 bytes\)",
    "past_dynamic": r"wrote past the end of dynamic shared memory \(252 bytes\)",
    "past_global": "wrote past the end of an allocation of 256 bytes",
    "before_global": "wrote before the start of an allocation of 256 bytes",
    "misaligned": "misaligned access of 16 bytes",
    "never_waits": "asynchronous copies it never waited for",
}


@pytest.mark.parametrize("kernel", sorted(NAMED))
def test_a_wrong_kernel_is_refused_with_its_reason(broken: Sim, kernel: str) -> None:
    broken.order(0)
    job = WrongJob(broken.up(np.zeros(64, np.float32)), 64)
    with pytest.raises(LaunchFailed, match=NAMED[kernel]) as failure:
        broken.launch(f"wrong_{kernel}", job, grid=(1,), threads=64, shared=252)
    broken.reset()
    assert f"[wrong_{kernel}" in str(failure.value)


@pytest.mark.parametrize("kernel", ["uninitialised", "early_read"])
def test_what_was_never_written_reads_as_nan(broken: Sim, kernel: str) -> None:
    x = broken.up(np.zeros(64, np.float32))
    broken.launch(f"wrong_{kernel}", WrongJob(x, 64), grid=(1,), threads=64)
    assert np.isnan(broken.down(x, (64,), np.float32)).any()
    broken.reset()


def test_a_race_shows_as_results_that_depend_on_the_order_of_lanes(broken: Sim) -> None:
    results = []
    for order in (0, 1, 2):
        broken.order(order)
        x = broken.up(np.zeros(64, np.float32))
        broken.launch("wrong_race", WrongJob(x, 64), grid=(1,), threads=64)
        results.append(broken.down(x, (64,), np.float32).tobytes())
    broken.reset()
    assert len(set(results)) == 3


def test_an_error_is_sticky_and_a_later_launch_does_not_hide_it(broken: Sim) -> None:
    x = broken.up(np.zeros(64, np.float32))
    with pytest.raises(LaunchFailed, match="divergence"):
        broken.launch("wrong_diverge", WrongJob(x, 64), grid=(1,), threads=64)
    with pytest.raises(LaunchFailed, match="divergence"):
        broken.launch("wrong_race", WrongJob(x, 64), grid=(1,), threads=64)
    broken.reset()


def _norm(sim: Sim, E: int = 64) -> tuple[jobs.RmsNorm, int, int]:  # noqa: N803
    x, y = sim.up(np.ones((1, E), np.float32)), sim.empty(E * 4)
    return jobs.RmsNorm(x, E, sim.up(np.ones(E, np.float32)), y, E, 1, E, 0.0, 1.0), x, y


def test_launch_limits_are_checked(clean: Sim) -> None:
    job, _, _ = _norm(clean)
    with pytest.raises(LaunchFailed, match="512 threads a block, the kernel's limit is 256"):
        clean.launch("rms_norm_f32", job, grid=(1,), threads=512)
    clean.reset()
    with pytest.raises(LaunchFailed, match="grid size"):
        clean.launch("rms_norm_f32", _norm(clean)[0], grid=(1, 70000), threads=32)
    clean.reset()
    with pytest.raises(LaunchFailed, match="cuLaunchKernel returned 1"):
        clean.launch("rms_norm_f32", _norm(clean)[0], grid=(1,), threads=32, shared=60_000)
    with pytest.raises(LaunchFailed, match="cuModuleGetFunction returned 500"):
        clean.function("no_such_kernel")


def test_work_waits_for_its_stream_and_events_order_streams(clean: Sim) -> None:
    first, second, event = c.c_void_p(), c.c_void_p(), c.c_void_p()
    for stream in (first, second):
        clean.call("cuStreamCreate", c.byref(stream), 1)
    clean.call("cuEventCreate", c.byref(event), 2)
    job, _, y = _norm(clean)
    host = np.zeros(64, np.float32)
    clean.launch("rms_norm_f32", job, grid=(1,), threads=32, stream=first)
    clean.call("cuEventRecord", event, first)
    clean.call("cuStreamWaitEvent", second, event, 0)
    clean.call("cuMemcpyDtoHAsync_v2", c.c_void_p(host.ctypes.data), c.c_uint64(y), 256, second)
    assert not host.any(), "nothing has been waited for yet"
    clean.call("cuStreamSynchronize", second)
    assert np.array_equal(host, np.ones(64, np.float32))
    for stream in (first, second):
        clean.call("cuStreamDestroy_v2", stream)
    clean.call("cuEventDestroy_v2", event)


def test_events_take_time_only_where_asked_to_and_happened(clean: Sim) -> None:
    """What benches on a device rely on; on the emulator it is the emulator's time."""
    stream, begin, end, silent, elapsed = c.c_void_p(), c.c_void_p(), c.c_void_p(), c.c_void_p(), c.c_float(-1.0)
    clean.call("cuStreamCreate", c.byref(stream), 1)
    for event, flags in ((begin, 0), (end, 0), (silent, 2)):
        clean.call("cuEventCreate", c.byref(event), flags)
    with pytest.raises(LaunchFailed, match="cuEventElapsedTime returned 400"):
        clean.call("cuEventElapsedTime", c.byref(elapsed), begin, end)
    clean.call("cuEventRecord", begin, stream)
    clean.launch("rms_norm_f32", _norm(clean)[0], grid=(1,), threads=32, stream=stream)
    for event in (end, silent):
        clean.call("cuEventRecord", event, stream)
    with pytest.raises(LaunchFailed, match="cuEventElapsedTime returned 600"):
        clean.call("cuEventElapsedTime", c.byref(elapsed), begin, end)
    clean.call("cuStreamSynchronize", stream)
    clean.call("cuEventElapsedTime", c.byref(elapsed), begin, end)
    assert 0.0 < elapsed.value < 10_000.0
    with pytest.raises(LaunchFailed, match="cuEventElapsedTime returned 400"):
        clean.call("cuEventElapsedTime", c.byref(elapsed), begin, silent)
    for event in (begin, end, silent):
        clean.call("cuEventDestroy_v2", event)
    clean.call("cuStreamDestroy_v2", stream)


def test_a_captured_graph_replays_over_changed_data(clean: Sim) -> None:
    stream, graph, exec_ = c.c_void_p(), c.c_void_p(), c.c_void_p()
    clean.call("cuStreamCreate", c.byref(stream), 1)
    job, x, y = _norm(clean)
    before = clean.lib.sim_launches()
    clean.call("cuStreamBeginCapture_v2", stream, 1)
    clean.launch("rms_norm_f32", job, grid=(1,), threads=32, stream=stream)
    with pytest.raises(LaunchFailed, match="900"):
        clean.call("cuStreamSynchronize", stream)
    clean.call("cuStreamEndCapture", stream, c.byref(graph))
    assert clean.lib.sim_launches() == before, "capturing runs nothing"
    clean.call("cuGraphInstantiateWithFlags", c.byref(exec_), graph, c.c_uint64(0))
    for value in (3.0, -2.0):
        data = np.full(64, value, np.float32)
        clean.call("cuMemcpyHtoDAsync_v2", c.c_uint64(x), c.c_void_p(data.ctypes.data), 256, stream)
        clean.call("cuGraphLaunch", exec_, stream)
        clean.call("cuStreamSynchronize", stream)
        assert np.allclose(clean.down(y, (64,), np.float32), np.sign(value))
    assert clean.lib.sim_launches() == before + 2
    clean.call("cuGraphExecDestroy", exec_)
    clean.call("cuGraphDestroy", graph)
    clean.call("cuStreamDestroy_v2", stream)


def test_memory_runs_out_and_comes_back(clean: Sim) -> None:
    clean.lib.sim_set_capacity(c.c_size_t(1000))
    with pytest.raises(LaunchFailed, match="returned 2"):
        clean.empty(1001)
    clean.empty(1000)
    clean.lib.sim_set_capacity(c.c_size_t(1 << 40))
    clean.reset()
    assert clean.lib.sim_allocations() == 0


def test_copies_outside_an_allocation_are_refused(clean: Sim) -> None:
    memory = clean.empty(16)
    with pytest.raises(LaunchFailed, match="returned 1"):
        clean.down(memory + 8, (16,), np.uint8)


# ---- several devices ------------------------------------------------------------------------------------------------


class Pair:
    """Two devices, a stream and an event on each, and one record of rms_norm on the first."""

    def __init__(self, sim: Sim) -> None:
        self.sim, self.contexts, self.streams, self.events = sim, [], [], []
        for device in range(2):
            context, stream, event = c.c_void_p(), c.c_void_p(), c.c_void_p()
            sim.call("cuDevicePrimaryCtxRetain", c.byref(context), device)
            sim.call("cuCtxSetCurrent", context)
            sim.call("cuStreamCreate", c.byref(stream), 1)
            sim.call("cuEventCreate", c.byref(event), 2)
            self.contexts.append(context)
            self.streams.append(stream)
            self.events.append(event)

    def on(self, device: int) -> c.c_void_p:
        """The device's stream, its context current."""
        self.sim.call("cuCtxSetCurrent", self.contexts[device])
        return self.streams[device]

    def close(self) -> None:
        self.sim.forget_errors()
        for device in range(2):
            self.on(device)
            self.sim.call("cuStreamDestroy_v2", self.streams[device])
            self.sim.call("cuEventDestroy_v2", self.events[device])
            self.sim.call("cuDevicePrimaryCtxRelease_v2", device)
        self.sim.call("cuCtxSetCurrent", None)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Of a simulator that no engine of another test uses: contexts are one per device and process."""
    sim = Sim(Path(shutil.copy(build(), tmp_path)))
    with devices(sim, 2):
        both = Pair(sim)
        yield both
        both.close()
        sim.reset()


def test_memory_of_a_device_is_touched_by_others_with_peer_access_only(pair: Pair) -> None:
    sim = pair.sim
    pair.on(1)
    theirs = sim.empty(256)
    own = pair.on(0)
    job, _, _ = _norm(sim)
    job.y = theirs
    sim.call("cuCtxEnablePeerAccess", pair.contexts[1], 0)
    sim.launch("rms_norm_f32", job, grid=(1,), threads=32, stream=own)
    sim.call("cuStreamSynchronize", own)
    with pytest.raises(LaunchFailed, match="returned 704"):
        sim.call("cuCtxEnablePeerAccess", pair.contexts[1], 0)
    stream = pair.on(1)
    job.x, job.y = theirs, theirs
    second = c.c_void_p()
    sim.call("cuModuleLoadData", c.byref(second), b"")
    function = c.c_void_p()
    sim.call("cuModuleGetFunction", c.byref(function), second, b"rms_norm_f32")
    arguments = (c.c_void_p * 1)(c.cast(c.byref(job), c.c_void_p))
    sim.call("cuLaunchKernel", function, 1, 1, 1, 32, 1, 1, 0, stream, arguments, None)
    with pytest.raises(LaunchFailed, match="touched memory of device 0 without peer access"):
        sim.call("cuStreamSynchronize", stream)
    sim.call("cuModuleUnload", second)


def test_what_belongs_to_one_device_is_refused_by_another(pair: Pair) -> None:
    sim = pair.sim
    first = pair.on(0)
    memory = sim.empty(16)
    host = np.zeros(16, np.uint8)
    second = pair.on(1)
    copy = (c.c_uint64(memory), c.c_void_p(host.ctypes.data), c.c_size_t(16))
    for stream, said in ((second, "returned 1"), (first, "returned 201")):
        with pytest.raises(LaunchFailed, match=said):
            sim.call("cuMemcpyHtoDAsync_v2", *copy, stream)
    with pytest.raises(LaunchFailed, match="returned 400"):
        sim.call("cuEventRecord", pair.events[0], second)


def test_a_capture_forks_and_must_join(pair: Pair) -> None:
    sim = pair.sim
    graph = c.c_void_p()
    first, second = pair.streams
    for joins in (False, True):
        pair.on(0)
        memory = sim.empty(16)
        pair.on(1)
        theirs = sim.empty(16)
        pair.on(0)
        sim.call("cuStreamBeginCapture_v2", first, 1)
        with pytest.raises(LaunchFailed, match="returned 900"):
            sim.empty(16)
        sim.call("cuMemsetD8Async", c.c_uint64(memory), 1, c.c_size_t(16), first)
        sim.call("cuEventRecord", pair.events[0], first)
        sim.call("cuStreamWaitEvent", second, pair.events[0], 0)
        pair.on(1)
        sim.call("cuMemcpyPeerAsync", c.c_uint64(theirs), pair.contexts[1], c.c_uint64(memory), pair.contexts[0],
                 c.c_size_t(16), second)  # fmt: skip
        pair.on(0)
        if joins:
            pair.on(1)
            sim.call("cuEventRecord", pair.events[1], second)
            pair.on(0)
            sim.call("cuStreamWaitEvent", first, pair.events[1], 0)
            sim.call("cuStreamEndCapture", first, c.byref(graph))
            with pytest.raises(LaunchFailed, match="returned 907"):
                sim.call("cuStreamWaitEvent", second, pair.events[0], 0)
            exec_ = c.c_void_p()
            sim.call("cuGraphInstantiateWithFlags", c.byref(exec_), graph, c.c_uint64(0))
            sim.call("cuGraphLaunch", exec_, first)
            sim.call("cuStreamSynchronize", first)
            pair.on(1)
            assert sim.down(theirs, (16,), np.uint8).tolist() == [1] * 16
            sim.call("cuGraphExecDestroy", exec_)
            sim.call("cuGraphDestroy", graph)
        else:
            with pytest.raises(LaunchFailed, match="returned 904"):
                sim.call("cuStreamEndCapture", first, c.byref(graph))


@pytest.mark.parametrize(("waits", "value"), [(True, 7), (False, 255)])
def test_without_an_event_wait_another_stream_comes_too_late(pair: Pair, waits: bool, value: int) -> None:
    sim = pair.sim
    first = pair.on(0)
    memory = sim.empty(16)
    sim.call("cuMemsetD8Async", c.c_uint64(memory), 7, c.c_size_t(16), first)
    sim.call("cuEventRecord", pair.events[0], first)
    second = pair.on(1)
    theirs = sim.empty(16)
    if waits:
        sim.call("cuStreamWaitEvent", second, pair.events[0], 0)
    sim.call("cuMemcpyPeerAsync", c.c_uint64(theirs), pair.contexts[1], c.c_uint64(memory), pair.contexts[0],
             c.c_size_t(16), second)  # fmt: skip
    sim.call("cuStreamSynchronize", second)
    assert sim.down(theirs, (16,), np.uint8).tolist() == [value] * 16
