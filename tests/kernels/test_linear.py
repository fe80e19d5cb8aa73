"""linear against float64 on the stored weights: every format, ISA, epilogue, and odd and tiny shapes."""

# ruff: noqa: N803, N806 - tensor letters

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.kernels import ops

# (R, K, N): ones, odd numbers around every block size, and real shapes.
SHAPES = [
    (1, 1, 1), (1, 3, 17), (2, 33, 16), (3, 31, 40), (4, 129, 5), (5, 130, 63), (6, 64, 96), (7, 65, 100),
    (8, 257, 33), (11, 512, 48), (13, 96, 130), (25, 100, 70), (1, 512, 384), (1, 1024, 100),
    (37, 900, 130), (33, 40, 1100), (16, 448, 32), (48, 769, 47), (9, 14337, 16),  # chunks of k, groups, rows
]  # fmt: skip

KINDS = [("fp32", False), ("bf16", False), ("int8", False), ("int8", True), ("int4", False)]
IDS = ["fp32", "bf16", "w8", "w8a8", "int4"]


def data(R, K, N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((R, K)).astype(np.float32)
    x[:, :: max(1, K // 3)] *= 20  # outlier channels, as T5 has
    return x, (rng.standard_normal((N, K)) / math.sqrt(K)).astype(np.float32)


def bound(form, quantize_rows, x, w):
    """The contract's tolerance, per output."""
    x, w = abs(x.astype(np.float64)), abs(w.astype(np.float64))
    K = x.shape[1]
    error = K * 2.0**-23 * (x @ w.T) + 1e-30
    block, steps = {"int8": (K, 127) if quantize_rows else (128, 32767), "int4": (32, 127)}.get(form, (K, 0))
    for k in range(0, K if steps else 0, block):
        step = x[:, k : k + block].max(axis=1, keepdims=True) / steps
        error += 0.5001 * step * w[:, k : k + block].sum(axis=1)
    return error


@pytest.mark.parametrize("isa", [*ops.isas(), ops.REFERENCE, ops.REFERENCE_AMX])
@pytest.mark.parametrize(("form", "quantize_rows"), KINDS, ids=IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_is_within_its_contract(shape, form, quantize_rows, isa):
    x, w = data(*shape)
    stored = ops.unpacked(form, w)
    got = ops.linear(isa, form, w, x, quantize_rows=quantize_rows)
    if form == "bf16":
        x = ops.nearest_bf16(x)
    exact = x.astype(np.float64) @ stored.astype(np.float64).T
    assert (abs(got - exact) <= bound(form, quantize_rows, x, stored)).all()


@pytest.mark.parametrize("epilogue", ["store", "add", "argmax"])
@pytest.mark.parametrize(("form", "quantize_rows"), KINDS, ids=IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_has_the_bits_of_the_plain_loops(shape, form, quantize_rows, epilogue):
    x, w = data(*shape, seed=7)
    y = np.linspace(-2, 2, shape[0] * shape[2], dtype=np.float32).reshape(shape[0], -1) if epilogue == "add" else None
    for isa in ops.isas():
        reference = ops.reference_of(isa)
        expected = ops.linear(reference, form, w, x, quantize_rows=quantize_rows, epilogue=epilogue, y=y)
        got = ops.linear(isa, form, w, x, quantize_rows=quantize_rows, epilogue=epilogue, y=y)
        np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32), err_msg=isa)


@pytest.mark.parametrize("act", range(4))
@pytest.mark.parametrize(("form", "quantize_rows"), KINDS, ids=IDS)
@pytest.mark.parametrize("epilogue", ["act", "gated"])
def test_activations_are_near_the_plain_loops(epilogue, form, quantize_rows, act):
    x, w = data(9, 70, 66, seed=8)
    for isa in ops.isas():
        reference = ops.reference_of(isa)
        expected = ops.linear(reference, form, w, x, quantize_rows=quantize_rows, epilogue=epilogue, act=act)
        got = ops.linear(isa, form, w, x, quantize_rows=quantize_rows, epilogue=epilogue, act=act)
        np.testing.assert_allclose(got, expected, atol=1e-6 * (1 + abs(expected).max()), rtol=2e-6, err_msg=isa)


@pytest.mark.parametrize(("form", "quantize_rows"), KINDS, ids=IDS)
def test_every_isa_and_thread_count_gives_the_same_bits(form, quantize_rows):
    x, w = data(13, 200, 150, seed=1)
    for isa in ops.isas():
        like = isa if isa == "amx" and form == "bf16" else "scalar"  # bf16 has other bits by tiles
        expected = ops.linear(like, form, w, x, quantize_rows=quantize_rows)
        for threads in (1, 2, 3):
            got = ops.linear(isa, form, w, x, quantize_rows=quantize_rows, threads=threads)
            np.testing.assert_array_equal(got, expected, err_msg=f"{isa}, {threads} threads")


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize(("form", "quantize_rows"), KINDS, ids=IDS)
def test_a_row_has_the_same_bits_in_any_company(form, quantize_rows, isa):
    x, w = data(29, 160, 90, seed=2)
    together = ops.linear(isa, form, w, x, quantize_rows=quantize_rows)
    for first, last in [(0, 1), (3, 5), (4, 7), (0, 12), (7, 20), (16, 29)]:
        np.testing.assert_array_equal(
            ops.linear(isa, form, w, x[first:last], quantize_rows=quantize_rows), together[first:last]
        )


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
def test_stored_weights_are_as_near_as_the_format_allows(form, isa):
    _, w = data(1, 96, 40, seed=3)
    stored = ops.unpacked(form, w)
    step = {"fp32": 0 * w, "bf16": abs(w) * 2.0**-8, "int8": abs(w).max(axis=1, keepdims=True) / 127 * 0.5001}.get(form)
    if step is None:
        groups = w.reshape(40, 3, 32)
        # a scale of max / 8 rounded to bf16; values near the positive end may clip by up to half a step more
        step = np.repeat(abs(groups).max(axis=2) / 7.9, 32, axis=1).reshape(w.shape)
    assert (abs(stored - w) <= step).all()


ACTIVATIONS = {
    0: lambda v: np.maximum(v, 0),
    1: lambda v: 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    2: lambda v: 0.5 * v * (1 + np.vectorize(math.erf)(v / math.sqrt(2))),
    3: lambda v: v / (1 + np.exp(-np.clip(v, -700, None))),
}


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize(("R", "F"), [(1, 5), (2, 16), (5, 33), (14, 100)])
def test_gated_is_activation_of_the_first_half_times_the_second(R, F, act, isa):
    x, w = data(R, 48, 2 * F, seed=4)
    got = ops.linear(isa, "fp32", w, x, epilogue="gated", act=act)
    gate, linear = np.split(x.astype(np.float64) @ w.astype(np.float64).T, 2, axis=1)
    expected = ACTIVATIONS[act](gate) * linear
    np.testing.assert_allclose(got, expected, atol=2e-5 * (1 + abs(expected).max()), rtol=1e-5)


@pytest.mark.parametrize("isa", ops.isas())
def test_activations_stay_finite_and_exact_at_the_ends(isa):
    x = np.array([[-1e30, -3e4, -100.0, -20.0, -1e-6, 0.0, 1e-6, 20.0, 100.0, 3e4]], np.float32)
    for act in ACTIVATIONS:
        got = ops.linear(isa, "fp32", np.eye(10, dtype=np.float32), x, epilogue="act", act=act)
        with np.errstate(over="ignore"):
            expected = ACTIVATIONS[act](x.astype(np.float64))
        np.testing.assert_allclose(got, np.nan_to_num(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("R", [1, 3, 9])
def test_add_accumulates_into_the_residual(R, isa):
    x, w = data(R, 40, 37, seed=5)
    y = np.full((R, 37), 3.0, np.float32)
    np.testing.assert_array_equal(
        ops.linear(isa, "fp32", w, x, epilogue="add", y=y), 3.0 + ops.linear(isa, "fp32", w, x)
    )


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize(("R", "N"), [(1, 1), (1, 999), (4, 130), (13, 500)])
def test_argmax_is_the_lowest_index_of_the_largest_value(R, N, isa):
    x, w = data(R, 24, N, seed=6)
    w[N // 2 :] = w[: N - N // 2]  # every value twice: ties
    full = ops.linear(isa, "fp32", w, x)
    for threads in (1, 2):
        best = ops.linear(isa, "fp32", w, x, epilogue="argmax", threads=threads)
        np.testing.assert_array_equal(best[:, 0], full.max(axis=1))
        np.testing.assert_array_equal(best[:, 1].view(np.int32), full.argmax(axis=1))


@pytest.mark.parametrize("isa", ops.isas())
def test_w8a8_never_saturates(isa):
    # All products at their largest: 16-bit pair sums of a shifted u8 operand would clip at 32767.
    x, w = np.ones((1, 256), np.float32), np.ones((16, 256), np.float32)
    np.testing.assert_allclose(ops.linear(isa, "int8", w, x, quantize_rows=True), 256.0, rtol=1e-6)
    np.testing.assert_allclose(ops.linear(isa, "int8", -w, x, quantize_rows=True), -256.0, rtol=1e-6)
    np.testing.assert_allclose(ops.linear(isa, "int8", -w, -x), 256.0, rtol=1e-6)


@pytest.mark.parametrize(("form", "quantize_rows"), KINDS, ids=IDS)
def test_a_zero_row_gives_zeros(form, quantize_rows):
    _, w = data(1, 70, 20)
    assert (ops.linear(ops.isas()[-1], form, w, np.zeros((2, 70), np.float32), quantize_rows=quantize_rows) == 0).all()
