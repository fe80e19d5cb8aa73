"""Deliberately broken PTX: every broken rule is named, with kernel, thread and line. That is what the interpreter is for."""

# ruff: noqa: E501 - PTX reads best with a snippet on a line
from __future__ import annotations

import re

import numpy as np
import pytest

from tests.kernels.cuda.sim import LaunchFailed
from tests.kernels.ptx import probe
from tests.kernels.ptx.interpreter import PtxMachine

BOX = ".shared .align 16 .b8 box[256]; mov.u32 %x, box; mad.lo.u32 %y, %t, 4, %x;"
JOB = "ld.param.u64 %a, [job]; mad.wide.u32 %b, %t, 4, %a;"
FILL = "st.shared.u32 [%y], %t;"

BROKEN: dict[str, tuple[str, str]] = {
    "a barrier on two paths": (
        "setp.lt.u32 %p, %t, 32; @%p bra $A; bar.sync 0; bra $E;\n$A:\n bar.sync 0;\n$E:",
        r"barrier divergence: thread \d+ waits on PTX line \d+, thread \d+ on line \d+",
    ),
    "a barrier half the block never reaches": (
        "setp.lt.u32 %p, %t, 32;\n$L: @!%p bra $L2;\n bar.sync 0; bra $E;\n$L2: shfl.sync.bfly.b32 %r, %t, 1, 31, -1;"
        "bar.sync 1;\n$E:",
        r"barrier divergence: 32 threads wait on PTX line \d+; 32 threads wait on PTX line \d+; 0 have left",
    ),
    "deadlock of a barrier and a shuffle": (
        "and.b32 %x, %t, 1; setp.eq.u32 %p, %x, 0; @%p bra $A;\n bar.sync 0; bra $E;\n$A: "
        "shfl.sync.bfly.b32 %r, %t, 1, 31, -1;\n$E:",
        r"deadlock: 32 threads wait on PTX line \d+; 32 threads wait on PTX line \d+",
    ),
    "a shuffle whose mask names a lane that left": (
        "setp.eq.u32 %p, %t, 7; @%p exit; shfl.sync.bfly.b32 %r, %t, 1, 31, -1;", "names lane 7, which has exited",
    ),
    "a shuffle from outside its mask": (
        "setp.ge.u32 %p, %t, 16; @%p exit; shfl.sync.bfly.b32 %r, %t, 16, 31, 0xffff;",
        "reads lane 16, which its mask 0000ffff does not name",
    ),
    "a mask without the thread itself": (
        "shfl.sync.bfly.b32 %r, %t, 1, 31, 0xffff;", "a collective whose mask 0000ffff leaves it out",
    ),
    "two masks in one collective": (
        "and.b32 %z, %t, 31; setp.gt.u32 %p, %z, 1; @%p exit; and.b32 %x, %t, 1; setp.eq.u32 %p, %x, 0;"
        "selp.b32 %y, 3, 1027, %p; vote.sync.ballot.b32 %r, %p, %y;",
        "lanes of one collective pass different masks|names lane 10, which has exited",
    ),
    "a read past a shared array": (BOX + FILL + "bar.sync 0; ld.shared.u32 %r, [%y+4];", "shared memory ends at 256 bytes|past the end"),
    "a write past one shared array into the next": (
        ".shared .align 4 .b8 one[256]; .shared .align 4 .b8 two[256]; mov.u32 %x, one; mad.lo.u32 %y, %t, 4, %x;"
        "mov.u32 %z, two; st.shared.u32 [%z], %t; st.shared.u32 [%y+4], %t;",
        "out of bounds: write of 4 bytes at 256, past the end of a shared variable|race in shared memory",
    ),
    "a null pointer into shared memory": ("mov.u32 %x, 0; ld.shared.u32 %r, [%x];", "shared memory ends at"),
    "a read past an allocation": (JOB + "ld.global.u32 %r, [%b+4];", r"out of bounds: read of 4 bytes .*behind one of 256 bytes"),
    "a write before an allocation": (JOB + "st.global.u32 [%b+-4], %t;", "out of bounds: write of 4 bytes"),
    "a misaligned load": (JOB + "ld.global.u32 %r, [%a+2];", "misaligned: 4 bytes at an address that is 2 more"),
    "a misaligned vector load": (JOB + "ld.global.v4.u32 {%r, %s, %x, %y}, [%a+8];", "misaligned: 16 bytes"),
    "a shared read before any write": (BOX + "ld.shared.u32 %r, [%y];", r"uninitialised: shared byte \d+ was never written"),
    "a missing block barrier": (
        BOX + FILL + "xor.b32 %z, %t, 32; mad.lo.u32 %z, %z, 4, %x; ld.shared.u32 %r, [%z];", "race in shared memory|uninitialised",
    ),
    "a missing warp barrier": (
        BOX + FILL + "xor.b32 %z, %t, 1; mad.lo.u32 %z, %z, 4, %x; ld.shared.u32 %r, [%z];", "race in shared memory|uninitialised",
    ),
    "a barrier before the write but not before the reuse": (
        BOX + FILL + "bar.sync 0; xor.b32 %z, %t, 32; mad.lo.u32 %z, %z, 4, %x; ld.shared.u32 %r, [%z]; st.shared.u32 [%y], %r;",
        "race in shared memory",
    ),
    "two threads writing one word": (JOB + "st.global.u32 [%a], %t;", "race in global memory"),
    "a copy read before its wait": (
        BOX + JOB + "mad.lo.u32 %y, %t, 4, %x; cp.async.ca.shared.global [%y], [%b], 4; ld.shared.u32 %r, [%y];",
        "an asynchronous copy to these bytes is still under way",
    ),
    "a copy nobody waited for": (
        BOX + JOB + "cp.async.ca.shared.global [%y], [%b], 4; cp.async.commit_group;", "leaves with asynchronous copies it never waited for",
    ),
    "a copy never committed": (
        BOX + JOB + "cp.async.ca.shared.global [%y], [%b], 4; cp.async.wait_group 0;", "leaves with asynchronous copies it never committed",
    ),
    "a copy whose source changes under way": (
        BOX + JOB + "cp.async.ca.shared.global [%y], [%b], 4; cp.async.commit_group; add.u32 %z, %t, 1; st.global.u32 [%b], %z;"
        "cp.async.wait_group 0;",
        "the source of the asynchronous copy on line 11 changed",
    ),
    "a store to parameters": ("mov.b64 %a, job; cvta.param.u64 %a, %a; st.u32 [%a], %t;", "parameters are read-only"),
    "an address of another space": ("mov.u64 %a, job; cvta.param.u64 %a, %a; cvta.to.shared.u64 %b, %a;", "a generic address of another space"),
    "a trap": ("trap;", "the kernel called trap"),
}  # fmt: skip


@pytest.mark.parametrize("title", BROKEN)
def test_a_broken_rule_is_named(machine: PtxMachine, title: str) -> None:
    body, said = BROKEN[title]
    for order in (0, 1, 4, 5):
        machine.order(order)
        with pytest.raises(LaunchFailed, match=said) as failure:
            probe.run(machine, body)
        assert "[probe" in str(failure.value)
    machine.order(0)


def test_the_message_says_block_thread_line_and_instruction(machine: PtxMachine) -> None:
    body = (
        "mov.u32 %x, %ctaid.y; setp.ne.u32 %p, %x, 1; @%p ret; setp.eq.u32 %p, %t, 5;\n"
        + JOB
        + "\n@%p ld.global.u16 %r, [%a+1];"
    )
    machine.order(0)
    with pytest.raises(LaunchFailed) as failure:
        probe.run(machine, body, grid=(1, 2))
    where = re.search(r"\[probe, block \(0,1,0\), thread \(5,0,0\), PTX line (\d+): (.*)\]", str(failure.value))
    assert where
    assert where[2] == "@%p ld.global.u16 %r, [%a+1];"
    assert probe.kernel(body).splitlines()[int(where[1]) - 1].endswith(where[2])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("wgmma.fence.sync.aligned;", "unknown instruction `wgmma`"),
        ("add.rq.f32 %r, %a, %b;", "`add` with unknown part `.rq`"),
        ("cvt.rn.satfinite.e4m3x2.f32 %r, %a, %b;", "`cvt` with unknown part `.e4m3x2`"),
        ("cp.async.bulk.commit_group;", "a form of cp that is not known"),
        ("ld.global.u128 %r, [%a];", "`ld` with unknown part `.u128`"),
        ("setp.lt.b8 %p, %a, %b;", "`setp` with unknown part `.b8`"),
    ],
)
def test_an_unknown_instruction_is_refused_by_name_before_anything_runs(
    machine: PtxMachine, body: str, said: str
) -> None:
    machine.load(probe.kernel("\n" + body))
    assert len(machine.unknown()) == 1
    assert said in machine.unknown()[0]
    before = machine.steps()
    with pytest.raises(LaunchFailed, match="does not know") as failure:
        probe.run(machine, "\n" + body)
    assert said in str(failure.value)
    assert body in str(failure.value)
    assert "line 12" in str(failure.value)
    assert machine.steps() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mov.u32 %zz, 1;", "register `%zz` was never declared"),
        ("bra $NOWHERE;", "`\\$NOWHERE` is neither a label nor a name"),
        (".frobnicate 3;", "unknown directive `.frobnicate`"),
        ("add.u32 %x, %x, 1", "expected ';'"),
    ],
)
def test_text_that_is_no_ptx_is_refused_with_its_line(machine: PtxMachine, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as failure:
        machine.load(probe.kernel("\n" + text))
    assert re.search(r"line 1[1-3]", str(failure.value))


def test_a_loop_that_does_not_end_ends(machine: PtxMachine) -> None:
    machine.limit(10_000)
    with pytest.raises(LaunchFailed, match="did not end within 10000 instructions"):
        probe.run(machine, "$L: bra $L;")
    machine.limit(0)


def test_launch_limits_are_checked(machine: PtxMachine) -> None:
    with pytest.raises(LaunchFailed, match="2048 threads a block, the kernel's limit is 1024"):
        probe.run(machine, "", threads=2048)
    with pytest.raises(LaunchFailed, match="52000 bytes of static shared memory"):
        probe.run(machine, ".shared .align 4 .b8 big[52000];")
    text = probe.kernel("").replace("{\n", ".maxntid 32, 1, 1\n{\n", 1)
    machine.load(text)
    with pytest.raises(LaunchFailed, match="64 threads a block, the kernel's limit is 32"):
        machine.launch("probe", probe.Job(), grid=(1,), threads=64)
    machine.reset()


def test_ordered_code_is_never_reported(machine: PtxMachine) -> None:
    """Barrier, warp barrier, atomics and one thread's own rereading: all of it legal, whatever the order of threads."""
    body = BOX + FILL + """
    bar.sync 0;
    xor.b32 %z, %t, 32; mad.lo.u32 %z, %z, 4, %x; ld.shared.u32 %r, [%z];
    bar.sync 0;
    st.shared.u32 [%y], %r;
    bar.warp.sync -1;
    xor.b32 %z, %t, 1; mad.lo.u32 %z, %z, 4, %x; ld.shared.u32 %s, [%z];
    bar.warp.sync -1;
    st.shared.u32 [%y], %s; ld.shared.u32 %u, [%y];
    """ + JOB + "red.global.add.u32 [%a], 1;"  # fmt: skip
    for order in range(6):
        machine.order(order)
        assert probe.run(machine, body)[0] == 64
    machine.order(0)


def test_blocks_of_one_launch_are_unordered_but_launches_are_ordered(machine: PtxMachine) -> None:
    body = (
        JOB
        + "mov.u32 %x, %ctaid.x; setp.ne.u32 %p, %t, 0; @%p exit; ld.global.u32 %r, [%a]; add.u32 %r, %r, 1; st.global.u32 [%a], %r;"
    )
    with pytest.raises(LaunchFailed, match="nothing orders blocks of one launch"):
        probe.run(machine, body, grid=(2,))
    machine.load(probe.kernel(body))
    memory = machine.up(np.zeros(64, np.uint32))
    job = probe.Job((probe.c.c_uint64 * probe.MAX_ARRAYS)(memory))
    for _ in range(3):
        machine.launch("probe", job, grid=(1,), threads=32)
    assert machine.down(memory, (1,), np.uint32)[0] == 3
    machine.reset()


def test_noise_stays_inside_the_manual_s_bound_and_is_repeatable(machine: PtxMachine) -> None:
    x = np.linspace(-10, 10, 64, dtype=np.float32)
    exact = np.exp2(x.astype(np.float64))
    runs = []
    for seed in (3, 3, 4):
        machine.noise(seed)
        runs.append(probe.compute(machine, "ex2.approx.f32 %r, %a;", [x], [np.float32])[0])
    machine.noise(0)
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert (np.abs(runs[0] - exact) <= exact * (2.0**-22 + 2.0**-24)).all()
    assert np.abs(runs[0] - exact).max() > 0
