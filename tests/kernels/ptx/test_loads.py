"""Weights are asked for ahead: of what the compilers emit, not of what a GPU does with it."""

from __future__ import annotations

import re

import pytest

from tests.kernels.ptx import sources

LOADS_AHEAD = {"f32": 4, "f16": 4, "bf16": 4, "i8": 4, "i4": 2}  # ops/linear.cu
WEIGHTS = re.compile(r"\sld\.(global\.)?v4\.[ubf]32\s")


def loads_in_a_row(entry: str) -> int:
    """Most 16-byte loads that one straight piece of PTX asks for before it multiplies."""
    most = now = 0
    for line in entry.splitlines():
        if WEIGHTS.search(line):
            now += 1
            most = max(most, now)
        elif line.startswith("$") or "bra" in line or "fma." in line:
            now = 0
    return most


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
@pytest.mark.parametrize("weights", LOADS_AHEAD)
def test_linear_asks_for_several_groups_before_it_multiplies(weights: str, compiler: str) -> None:
    if reason := sources.missing(compiler):
        pytest.skip(reason)
    text = sources.ptx(compiler)
    for activations in ("f32", "f16", "bf16"):
        begin = text.index(f".entry linear_{weights}_{activations}(")
        assert loads_in_a_row(text[begin : text.index("\n}", begin)]) >= LOADS_AHEAD[weights]


def test_what_is_counted_is_a_straight_piece() -> None:
    load, multiply = "\tld.v4.u32 \t{%r1, %r2, %r3, %r4}, [%rd1];", "\tfma.rn.f32 \t%f1, %f2, %f3, %f1;"
    assert loads_in_a_row("\n".join([load, load, multiply, load])) == 2
    assert loads_in_a_row("\n".join([load, "$L__BB0_1:", load])) == 1
    assert loads_in_a_row("\n".join([load, "\t@%p1 bra \t$L__BB0_1;", load])) == 1
