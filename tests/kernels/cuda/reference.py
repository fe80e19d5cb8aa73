"""What the kernels must compute, in float64 NumPy, and the packed layouts of ops/panels.h and ops/attention.h."""

# ruff: noqa: N803, N806 - tensor letters
from __future__ import annotations

import math

import numpy as np

Array = np.ndarray

EPSILON = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
"""Relative error of rounding to a type once."""


def encode(dtype: str, values: Array) -> Array:
    """The bytes of `values` in a storage type: float32, float16, or bf16 as uint16."""
    if dtype == "f32":
        return values.astype(np.float32)
    if dtype == "f16":
        return values.astype(np.float16)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def decode(dtype: str, stored: Array) -> Array:
    if dtype == "bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def storage(dtype: str) -> type:
    return {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}[dtype]


def panels(columns: int) -> int:
    return -(-columns // 16)


def pack(fmt: str, w: Array) -> tuple[Array, Array | None, Array]:
    """w [K, N] -> dwords, int8 scales or None, and the float64 matrix the dwords stand for."""
    K, N = w.shape
    group = {"f32": 1, "f16": 2, "bf16": 2, "i8": 4, "i4": 32}[fmt]
    padded = np.zeros((-(-K // group) * group, panels(N) * 16))
    padded[:K, :N] = w
    if fmt == "i4":
        return _pack_i4(padded, K, N)
    scale = None
    if fmt == "i8":
        scale = np.maximum(np.abs(padded).max(0) / 127, 1e-30).astype(np.float32)
        stored = np.rint(padded / scale).astype(np.int8)
        exact = stored.astype(np.float64) * scale
    else:
        stored = encode(fmt, padded)
        exact = decode(fmt, stored)
    # [K / group, group, panels, 16] -> [panels, K / group, 16, group]
    dwords = stored.reshape(-1, group, panels(N), 16).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(dwords).view(np.uint32).ravel(), scale, exact[:K, :N]


def _pack_i4(padded: Array, K: int, N: int) -> tuple[Array, None, Array]:
    grouped = padded.reshape(-1, 32, panels(N), 16)
    scale = encode("bf16", np.abs(grouped).max(1) / 7 + 1e-30)  # [K / 32, panels, 16]
    value = decode("bf16", scale)
    q = np.clip(np.rint(grouped / value[:, None]), -8, 7).astype(np.int64)
    exact = (q * value[:, None]).reshape(-1, panels(N) * 16)
    nibbles = (q & 15).reshape(-1, 4, 8, panels(N), 16)
    dwords = sum(nibbles[:, :, i] << (4 * i) for i in range(8)).astype(np.uint32)  # [K / 32, 4, panels, 16]
    dwords = dwords.transpose(2, 0, 1, 3).reshape(panels(N), -1, 64)
    scales = np.ascontiguousarray(scale.transpose(1, 0, 2)).view(np.uint32)  # [panels, K / 32, 8]
    return np.concatenate([dwords, scales], axis=2).astype(np.uint32).ravel(), None, exact[:K, :N]


def interleave(gate: Array, linear: Array) -> Array:
    """[K, F] twice -> [K, 2 F padded]: 16 columns of one, 16 of the other."""
    K, F = gate.shape
    both = np.zeros((K, panels(F), 2, 16))
    for half, w in enumerate((gate, linear)):
        padded = np.zeros((K, panels(F) * 16))
        padded[:, :F] = w
        both[:, :, half] = padded.reshape(K, panels(F), 16)
    return both.reshape(K, -1)


def rms_norm(x: Array, w: Array, eps: float, out_scale: float) -> Array:
    return w * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * out_scale


def activate(name: str, x: Array) -> Array:
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu_new":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "gelu":
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x / (1 + np.exp(-x))


def log_softmax(x: Array) -> tuple[Array, Array]:
    top = x.max(-1, keepdims=True)
    out = top + np.log(np.exp(x - top).sum(-1, keepdims=True))
    return x - out, out[..., 0]


def attend(q: Array, k: Array, v: Array, bias: Array | None, first: int, causal: bool) -> Array:
    """q [R, D], k and v [T, D]; bias [2 W + 32] of one head; row i stands at first + i."""
    scores = q @ k.T
    distance = np.arange(len(k))[None] - (first + np.arange(len(q)))[:, None]
    if bias is not None:
        window = (len(bias) - 32) // 2
        scores = scores + bias[np.clip(distance, -window, window) + window + 16]
    if causal:
        scores = np.where(distance > 0, -np.inf, scores)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p @ v / p.sum(-1, keepdims=True)


def bias_table(rng: np.random.Generator, heads: int, window: int) -> Array:
    """[heads, 2 W + 32] with sixteen saturated entries at either end (ops/attention.h)."""
    inside = rng.normal(size=(heads, 2 * window + 1)) * 2
    left, right = np.repeat(inside[:, :1], 16, 1), np.repeat(inside[:, -1:], 15, 1)
    return np.concatenate([left, inside, right], axis=1)


def k_panels(dtype: str, k: Array, capacity: int) -> Array:
    """[heads, T, D] -> [heads, capacity / 16, D, 16], zero beyond T."""
    heads, T, D = k.shape
    padded = np.zeros((heads, capacity, D))
    padded[:, :T] = k
    return encode(dtype, padded.reshape(heads, -1, 16, D).transpose(0, 1, 3, 2))


def v_panels(dtype: str, v: Array, capacity: int) -> Array:
    """[heads, T, D] -> [heads, ceil(D / 16), capacity, 16], zero beyond T and D."""
    heads, T, D = v.shape
    padded = np.zeros((heads, capacity, panels(D) * 16))
    padded[:, :T, :D] = v
    return encode(dtype, padded.reshape(heads, capacity, -1, 16).transpose(0, 2, 1, 3))


def philox(seed: int, step: int) -> int:
    """First word of Philox4x32-10 with this key and counter."""
    mask = 0xFFFFFFFF
    k0, k1 = seed & mask, seed >> 32
    c0, c1, c2, c3 = step & mask, step >> 32, 0, 0
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & mask, (a >> 32) ^ c3 ^ k1, a & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0


def kept(x: Array, top_k: int, top_p: float) -> Array:
    """Which of x [V] (temperature applied) stay after top-k, then top-p, ties of the last value included."""
    keep = np.isfinite(x)
    if 0 < top_k < len(x):
        keep &= x >= np.sort(x)[-top_k]
    if top_p < 1:
        p = np.where(keep, np.exp(x - x.max()), 0)
        ordered = np.sort(p)[::-1]
        last = ordered[np.searchsorted(np.cumsum(ordered), top_p * p.sum())]
        keep &= p >= last
    return keep


def processed(
    scores: Array, ids: list[int], penalty: float, ngram: int, min_new: int, words: list[list[int]],
    ending: list[int], eos: list[int],
) -> Array:  # fmt: skip
    """Scores after Hugging Face's processors; `ending`: the eos ids that end this row, which a lone bad word spares."""
    out = scores.astype(np.float32)
    for token in set(ids) if penalty != 1.0 else ():
        out[token] = out[token] * np.float32(penalty) if out[token] < 0 else out[token] / np.float32(penalty)
    for start in range(len(ids) - ngram + 1) if ngram else ():
        if ids[start : start + ngram - 1] == ids[len(ids) - ngram + 1 :]:
            out[ids[start + ngram - 1]] = -np.inf
    for word in words:
        if not (len(word) == 1 and word[0] in ending) and ids[len(ids) - len(word) + 1 :] == word[:-1]:
            out[word[-1]] = -np.inf
    if len(ids) - 1 < min_new:
        out[eos] = -np.inf
    return out
