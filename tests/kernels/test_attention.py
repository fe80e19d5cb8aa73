"""attention, rms_norm and log_normalizer against float64, odd shapes included."""

# ruff: noqa: N803, N806 - tensor letters

from __future__ import annotations

import numpy as np
import pytest

from engines.t5.bias import bias_table, buckets_of
from tests.kernels import ops

WINDOW = 40


def exact(q, k, v, heads, bias=None, first=0, causal=False):
    """[R, heads * D] in float64; bias(relative) -> [H, ...]."""
    q, k, v = (np.moveaxis(a.astype(np.float64).reshape(len(a), heads, -1), 1, 0) for a in (q, k, v))
    scores = q @ k.swapaxes(1, 2)
    relative = np.arange(k.shape[1])[None, :] - (np.arange(q.shape[1])[:, None] + first)
    if bias is not None:
        scores = scores + bias(relative)
    if causal:
        scores = np.where(relative[None] > 0, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.moveaxis(weights @ v, 0, 1).reshape(q.shape[1], -1)


def data(R, keys, heads, D, seed=0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((n, heads * D)).astype(np.float32) for n in (R, keys, keys))
    return q, k, v


SHAPES = [
    (1, 1, 1, 1),
    (1, 17, 2, 5),
    (3, 16, 1, 16),
    (5, 100, 3, 24),
    (9, 33, 2, 64),
    (20, 20, 2, 17),
    (1, 200, 2, 256),
]


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_attention_is_softmax_of_unscaled_scores(shape, isa):
    heads = shape[2]
    q, k, v = data(*shape)
    got = ops.attend(isa, q, k, v, heads)
    np.testing.assert_allclose(got, exact(q, k, v, heads), atol=2.0**-17 * abs(v).max())


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_bf16_cache_holds_the_nearest_bf16_and_loses_nothing_else(shape, isa):
    heads = shape[2]
    q, k, v = data(*shape)
    got = ops.attend(isa, q, k, v, heads, cache_bytes=2)
    np.testing.assert_allclose(
        got, exact(q, ops.nearest_bf16(k), ops.nearest_bf16(v), heads), atol=2.0**-17 * abs(v).max()
    )


@pytest.mark.parametrize("isa", ops.isas())
def test_a_bf16_cache_keeps_nan_infinity_and_ties(isa):
    v = np.array([np.nan, np.inf, -np.inf, 1 + 2.0**-8, 1 + 3 * 2.0**-8, -0.0, 3.4e38], np.float32)[None]
    got = ops.attend(isa, np.zeros_like(v), np.zeros_like(v), v, 1, cache_bytes=2)
    np.testing.assert_array_equal(got, np.array([[np.nan, np.inf, -np.inf, 1, 1 + 2.0**-6, 0, np.inf]], np.float32))


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize(("R", "causal"), [(1, False), (70, False), (150, True), (150, False)])
@pytest.mark.parametrize("is_rounded", [False, True])
def test_bias_is_right_at_every_distance(is_rounded, R, causal, isa):
    heads, D = 2, 8
    q, k, v = (ops.nearest_bf16(a) for a in data(R, 150, heads, D, seed=1))
    weight = np.random.default_rng(2).standard_normal((32, heads)).astype(np.float32)
    table = bias_table(weight, bidirectional=not causal, max_distance=WINDOW)
    first = 0 if R > 1 else 149

    def bias(relative):
        index = buckets_of(relative, bidirectional=not causal, buckets=32, max_distance=WINDOW)
        return np.moveaxis(weight[index], 2, 0)

    got = ops.attend(isa, q, k, v, heads, bias=table, window=WINDOW, first=first, causal=causal, is_rounded=is_rounded)
    close = 2.0**-9 if is_rounded else 2.0**-17
    np.testing.assert_allclose(got, exact(q, k, v, heads, bias, first, causal), atol=close * abs(v).max())


@pytest.mark.parametrize("cache_bytes", [4, 2])
def test_every_isa_and_company_gives_the_same_bits(cache_bytes):
    q, k, v = data(23, 75, 3, 24, seed=3)
    whole = [
        ops.attend(isa, q, k, v, 3, threads=threads, cache_bytes=cache_bytes)
        for isa in ops.isas()
        for threads in (1, 2)
    ]
    for other in whole[1:]:
        np.testing.assert_array_equal(other, whole[0])
    for isa in ops.isas():
        np.testing.assert_array_equal(ops.attend(isa, q[4:7], k, v, 3, cache_bytes=cache_bytes), whole[0][4:7])


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("shape", [*SHAPES, (40, 1100, 2, 64), (17, 513, 1, 40)], ids=str)
def test_rounded_attention_loses_what_bf16_loses(shape, isa):
    q, k, v = data(*shape)
    k *= np.linspace(0.2, 2, len(k), dtype=np.float32)[:, None]  # so that later blocks of keys raise the maximum
    got = ops.attend(isa, q, k, v, shape[2], is_rounded=True)
    if isa != "amx":
        np.testing.assert_array_equal(got, ops.attend(isa, q, k, v, shape[2]))
        return
    like = exact(*(ops.nearest_bf16(a) for a in (q, k, v)), shape[2])
    np.testing.assert_allclose(got, like, atol=2.0**-9 * abs(v).max())


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("size", [10, 100, 1000])
def test_large_scores_keep_their_weights_from_block_to_block(size, isa):
    """Scores up to size^2 whose largest lie in later blocks of keys, where what was summed before is scaled."""
    q, k, v = (ops.nearest_bf16(a) for a in data(20, 1100, 1, 64, seed=5))
    q, k = ops.nearest_bf16(q * size / 8), ops.nearest_bf16(k * size / 8)
    got = ops.attend(isa, q, k, v, 1, is_rounded=True)
    np.testing.assert_allclose(got, exact(q, k, v, 1), atol=2.0**-8 * abs(v).max())


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize(("R", "keys", "D", "first", "causal"), [(40, 600, 256, 0, False), (17, 700, 288, 0, False),
                                                                (20, 1030, 40, 1010, True)])  # fmt: skip
def test_rounded_attention_of_wide_heads_and_of_later_rows(R, keys, D, first, causal, isa):
    q, k, v = (ops.nearest_bf16(a) for a in data(R, keys, 2, D, seed=6))
    weight = np.random.default_rng(2).standard_normal((32, 2)).astype(np.float32)
    table = bias_table(weight, bidirectional=not causal, max_distance=WINDOW)

    def bias(relative):
        index = buckets_of(relative, bidirectional=not causal, buckets=32, max_distance=WINDOW)
        return np.moveaxis(weight[index], 2, 0)

    got = ops.attend(isa, q, k, v, 2, bias=table, window=WINDOW, first=first, causal=causal, is_rounded=True)
    np.testing.assert_allclose(got, exact(q, k, v, 2, bias, first, causal), atol=2.0**-9 * abs(v).max())


@pytest.mark.parametrize("isa", ops.isas())
def test_rounded_attention_is_the_same_in_any_company(isa):
    q, k, v = data(40, 700, 3, 24, seed=3)
    whole = ops.attend(isa, q, k, v, 3, is_rounded=True)
    np.testing.assert_array_equal(ops.attend(isa, q, k, v, 3, threads=2, is_rounded=True), whole)
    np.testing.assert_array_equal(ops.attend(isa, q[4:23], k, v, 3, is_rounded=True), whole[4:23])


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("is_rounded", [False, True])
def test_large_scores_do_not_overflow(is_rounded, isa):
    q, k, v = data(4, 30, 1, 16, seed=4)
    q, k, v = (ops.nearest_bf16(a) for a in (q * 100, k * 100, v))
    got = ops.attend(isa, q, k, v, 1, is_rounded=is_rounded)
    np.testing.assert_allclose(got, exact(q, k, v, 1), atol=2.0**-9 * abs(v).max() if is_rounded else 1e-3)


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize(("R", "E"), [(1, 1), (2, 15), (3, 16), (7, 513), (40, 64)])
def test_rms_norm(R, E, isa):
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((R, E)).astype(np.float32) * 50, rng.standard_normal(E).astype(np.float32)
    scale = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(ops.rms_norm(isa, x, w, 1e-6, 0.125), w * x * scale * 0.125, rtol=6 * 2.0**-23)


@pytest.mark.parametrize("isa", ops.isas())
def test_rms_norm_of_zeros_is_zero_and_of_1e18_is_finite(isa):
    w = np.ones(20, np.float32)
    assert (ops.rms_norm(isa, np.zeros((1, 20), np.float32), w, 1e-6, 1.0) == 0).all()
    np.testing.assert_allclose(ops.rms_norm(isa, np.full((1, 20), 1e18, np.float32), w, 1e-6, 1.0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("V", [1, 15, 16, 250, 5000])
def test_log_normalizer(V, isa):
    x = np.random.default_rng(6).standard_normal(V).astype(np.float32) * 10
    expected = np.log(np.exp(x.astype(np.float64) - x.max()).sum()) + x.max()
    assert ops.log_normalizer(isa, x) == pytest.approx(expected, abs=2e-6)
