"""Faults seeded in the sources and in the compiled text itself: each is found, by the check its row names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.kernels.cuda.cases import CASES, run_case
from tests.kernels.cuda.mutants import MUTANTS
from tests.kernels.cuda.sim import LaunchFailed
from tests.kernels.ptx import sources
from tests.kernels.ptx.interpreter import PtxMachine
from tests.kernels.ptx.mutants import CAUGHT_BY, RACE, SURVIVED, outcome

REASON = sources.missing("nvrtc")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.mark.parametrize("title", CAUGHT_BY)
def test_a_seeded_fault_is_caught_in_ptx(machine: PtxMachine, title: str) -> None:
    found, said = outcome(machine, title)
    assert found == CAUGHT_BY[title], said
    if found == RACE:
        assert re.search(r"on line \d+", said)


def test_the_table_names_mutants_that_exist() -> None:
    assert set(CAUGHT_BY) <= set(MUTANTS)
    assert [t for t, by in CAUGHT_BY.items() if by == SURVIVED] == [t for t in CAUGHT_BY if t.startswith("control")]


def _nth(pattern: str, replacement: str, n: int = 0) -> Callable[[str], str]:
    """Changes the n-th place that matches."""

    def change(text: str) -> str:
        places = list(re.finditer(pattern, text))
        assert places, pattern
        where = places[n]
        return text[: where.start()] + where.expand(replacement) + text[where.end() :]

    return change


SHARED_STORE = r"st\.shared\.f32 \t?\[(%r\w+)\]"
PRODUCT = r"fma\.rn\.f32 \t?(%\w+), (%\w+), (%\w+), (%\w+);"
FRAGMENT = r"(mma\.sync\S+ \{[^}]*\}, \{)(%r\d+),(%r\d+)"

TEXT_FAULTS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "a barrier the compiler dropped": ("gemm_f16", "gemm-f16", _nth(r"bar\.sync \t?0;", "")),
    "a fragment register out of place": ("gemm_bf16", "gemm-bf16", _nth(FRAGMENT, r"\1\3,\2")),
    "a shuffle over half the distance": (
        "rms_norm_f32",
        "rms_norm-f32",
        _nth(r"(mov\.[bu]32 \t?%r\d+, )16;", r"\g<1>8;"),
    ),
    "a shared address off by four": ("sample", "sample", _nth(SHARED_STORE, r"st.shared.f32 [\1+4]")),
    "an unfused product": ("attend_f32", "attend-f32", _nth(PRODUCT, r"mul.rn.f32 \1, \2, \3;", 1)),
    "a wait for the wrong group": ("gemm_f16", "gemm-f16", _nth(r"cp\.async\.wait_group 1;", "cp.async.wait_group 3;")),
    "a rounding mode": ("rms_norm_bf16", "rms_norm-bf16", _nth(r"cvt\.rn\.bf16\.f32", "cvt.rz.bf16.f32")),
    "a branch turned round": ("embed_f32", "embed-f32", _nth(r"@(%p\d+) bra", r"@!\1 bra")),
}


def _run(machine: PtxMachine, names: list[str]) -> None:
    for name in names:
        for order in (2, 3):
            run_case(machine, name, order)


@pytest.mark.parametrize("title", TEXT_FAULTS)
def test_a_fault_in_the_compiled_text_is_caught(machine: PtxMachine, title: str) -> None:
    """What a compiler's bug, or a wrong line of inline PTX, would look like: no C++ source knows of it."""
    kernel, cases, change = TEXT_FAULTS[title]
    text = sources.ptx("nvrtc")
    start = text.index(f".entry {kernel}(")
    end = text.find(".visible .entry", start)
    machine.load(text[:start] + change(text[start : end if end > 0 else len(text)]) + (text[end:] if end > 0 else ""))
    names = sorted((n for n in CASES if n.startswith(cases)), key=len)
    with pytest.raises((AssertionError, LaunchFailed)):
        _run(machine, names)
