"""linear on bf16 weights: the dot product instruction where the CPU has it, and what stands in for it, bit for bit."""

# ruff: noqa: N806 - tensor letters

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.t5 import native
from tests.kernels import ops

SMALLEST = float(np.float32(2.0**-126))
SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    np.inf,
    -np.inf,
    np.nan,
    3.4e38,
    -3.4e38,
    SMALLEST,
    -SMALLEST,
    SMALLEST / 2,
    1e-45,
    -1e-40,
]


def floats(rng, shape, exponents):
    """Any sign and fraction, exponents in the range, and now and then something special."""
    bits = rng.integers(0, 2**32, shape, dtype=np.uint32) & 0x807FFFFF
    values = (bits | rng.integers(*exponents, shape, dtype=np.uint32) << 23).view(np.float32)
    return np.where(rng.random(shape) < 0.002, rng.choice(np.array(SPECIAL, np.float32), shape), values)


def same_bits(got, expected):
    """Equal bits, NaN equal to NaN whatever its bits."""
    return (got.view(np.int32) == expected.view(np.int32)) | (np.isnan(got) & np.isnan(expected))


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize(
    "exponents", [(0, 256), (100, 150), (56, 72), (60, 67)], ids=["all", "moderate", "sums near denormal", "denormal"]
)
def test_every_isa_has_the_bits_of_the_plain_loops_at_every_exponent(exponents, isa):
    rng = np.random.default_rng(exponents)
    for R, K, N in [(8, 2, 200), (1, 2, 300), (9, 7, 33), (13, 64, 50)]:
        x, w = floats(rng, (R, K), exponents), floats(rng, (N, K), exponents)
        expected = ops.linear(ops.reference_of(isa), "bf16", w, x)
        assert same_bits(ops.linear(isa, "bf16", w, x), expected).all()
        if exponents == (60, 67) and K > 2:
            assert not ((expected != 0) & (abs(expected) < SMALLEST)).any()
            assert (expected == 0).any(), "nothing was flushed: the case is not met"


@pytest.mark.parametrize("isa", [*ops.isas(), ops.REFERENCE, ops.REFERENCE_AMX])
@pytest.mark.parametrize(
    ("x", "product"),
    [
        (1 + 2.0**-8, 1.0), (1 + 3 * 2.0**-8, 1 + 2.0**-6), (-(1 + 2.0**-8), -1.0),
        (1 + 2.0**-8 + 2.0**-23, 1 + 2.0**-7), (np.inf, np.inf), (-np.inf, -np.inf), (np.nan, np.nan),
        (3.4e38, np.inf), (3.38e38, 3.3762391e38),
        (SMALLEST, SMALLEST), (SMALLEST * (1 - 2.0**-23), SMALLEST), (SMALLEST / 2, 0.0), (1e-45, 0.0),
    ],
)  # fmt: skip
def test_a_row_is_rounded_to_the_nearest_bf16_and_denormals_count_as_zero(x, product, isa):
    got = ops.linear(isa, "bf16", np.ones((1, 1), np.float32), np.array([[x]], np.float32))
    np.testing.assert_array_equal(got, np.array([[product]], np.float32))


@pytest.mark.parametrize("isa", [*ops.isas(), ops.REFERENCE, ops.REFERENCE_AMX])
def test_of_each_two_k_the_second_is_added_first_but_by_tiles_in_a_chain_for_itself(isa):
    # 1 - 2^24 has 24 bits, 1 + 2^24 has 25 and loses its one: which of the last two comes first shows.
    x = np.array([[1.0, 0.0, 2.0**24, -(2.0**24)], [1.0, 0.0, -(2.0**24), 2.0**24]], np.float32)
    expected = [[0.0], [1.0]] if ops.reference_of(isa) == ops.REFERENCE_AMX else [[1.0], [0.0]]
    np.testing.assert_array_equal(ops.linear(isa, "bf16", np.ones((1, 4), np.float32), x), expected)


@pytest.mark.parametrize("isa", ops.isas())
def test_the_epilogue_keeps_denormals(isa):
    """Flushing belongs to the sums; what they are added to stays."""
    y = np.full((3, 20), 1e-40, np.float32)
    got = ops.linear(isa, "bf16", np.ones((20, 4), np.float32), np.zeros((3, 4), np.float32), epilogue="add", y=y)
    np.testing.assert_array_equal(got, y)


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("threads", [1, 3])
def test_rows_threads_and_chunks_do_not_change_a_bit(threads, isa):
    rng = np.random.default_rng(4)
    x, w = floats(rng, (29, 70), (60, 140)), floats(rng, (150, 70), (60, 140))
    together = ops.linear(ops.reference_of(isa), "bf16", w, x)
    for first, last in [(0, 1), (3, 5), (4, 7), (0, 12), (7, 20), (16, 29)]:
        assert same_bits(ops.linear(isa, "bf16", w, x[first:last], threads=threads), together[first:last]).all()


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize(
    "shape", [(261, 70, 150), (256, 7, 33), (256, 3601, 48)], ids=["many", "odd K", "K too large for L2"]
)
def test_many_rows_have_the_bits_of_the_plain_loops(shape, isa):
    """Where the dot product is no instruction, many rows meet weights that were widened once."""
    R, K, N = shape
    rng = np.random.default_rng(5)
    x, w = floats(rng, (R, K), (60, 140)), floats(rng, (N, K), (60, 140))
    for epilogue in ("store", "gated"):
        expected = ops.linear(ops.reference_of(isa), "bf16", w, x, epilogue=epilogue)
        got = ops.linear(isa, "bf16", w, x, epilogue=epilogue, threads=2)
        assert same_bits(got, expected).all()


def test_tiles_are_chosen_where_they_are_and_the_dot_product_where_it_outruns_multiply_adds():
    is_amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert native.isa() == [isa for isa in ops.isas() if is_amd or isa != "avx512_bf16"][-1]
