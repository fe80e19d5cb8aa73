"""Every kernel x dtype x awkward shape, each checked against float64 NumPy with a stated tolerance.

A case is a function of a simulator and a random generator that raises AssertionError. As a program, with a library and
`small`, names of cases or `wrong:` kernels, it runs those and exits 1 at the first failure (sanitizer builds, mutants).
"""

# ruff: noqa: N803, N806, E741 - tensor letters
from __future__ import annotations

import ctypes as c
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.kernels.cuda import jobs, linear_cases, reference, step_cases
from tests.kernels.cuda.reference import Array, decode, encode, storage
from tests.kernels.cuda.sim import Sim

Case = Callable[[Sim, np.random.Generator], None]
CASES: dict[str, Case] = {}
SMALL: set[str] = set()


def case(name: str, run: Case, *, small: bool = False) -> None:
    assert name not in CASES
    CASES[name] = run
    if small:
        SMALL.add(name)


def close(got: Array, want: Array, dtype: str, *, absolute: float | Array, relative: float = 0.0) -> None:
    """|got - want| <= absolute + relative |want|, plus one rounding to the stored type."""
    rounding = 0.0 if dtype == "f32" else reference.EPSILON[dtype] * 1.01
    allowed = absolute + (relative + rounding) * np.abs(want) + (6e-8 if dtype == "f16" else 0.0)
    assert np.isfinite(got).all(), "a result is not finite: something was read before it was written"
    worst = np.max(np.abs(got - want) - allowed)
    assert worst <= 0, f"off by {np.abs(got - want).max():.3g}, {worst:.3g} more than allowed"


def rms_norm(dtype: str, R: int, E: int, threads: int) -> Case:
    def run(sim: Sim, rng: np.random.Generator) -> None:
        ld = E + 5
        x = rng.normal(size=(R, ld)).astype(np.float32) * 30
        w = rng.normal(size=E).astype(np.float32)
        y = sim.empty(R * ld * 4)
        job = jobs.RmsNorm(sim.up(x), ld, sim.up(w), y, ld, R, E, 1e-6, 0.125)
        sim.launch(f"rms_norm_{dtype}", job, grid=(R,), threads=threads)
        want = reference.rms_norm(x[:, :E].astype(np.float64), w, 1e-6, 0.125)
        got = decode(dtype, sim.down(y, (R, ld), storage(dtype)))[:, :E]
        close(got, want, dtype, absolute=0.0, relative=2.0**-21)

    return run


def embed(dtype: str, R: int, E: int) -> Case:
    def run(sim: Sim, rng: np.random.Generator) -> None:
        table = encode(dtype, rng.normal(size=(11, E)))
        ids = rng.integers(0, 11, R).astype(np.int32)
        ids[0] = 10
        y = sim.empty(R * E * 4)
        job = jobs.Embed(sim.up(table), 0, sim.up(ids), y, E, R, E)
        sim.launch(f"embed_{dtype}", job, grid=(R,), threads=64)
        assert np.array_equal(sim.down(y, (R, E), np.float32), decode(dtype, table[ids]).astype(np.float32))

    return run


def add_shards(count: int) -> Case:
    def run(sim: Sim, rng: np.random.Generator) -> None:
        parts = [rng.normal(size=(3, 72)).astype(np.float32) for _ in range(count)]
        start = rng.normal(size=(3, 80)).astype(np.float32)
        y = sim.up(start)
        up = (c.c_void_p * jobs.MAX_SHARDS)(*[sim.up(p) for p in parts])
        job = jobs.AddShards(None, 0, 72, y, 80, 3, 70, up, count)
        sim.launch("add_shards", job, grid=(3, 2), threads=64)
        want = start.copy()
        for part in parts:
            want[:, :70] += part[:, :70]
        assert np.array_equal(sim.down(y, start.shape, np.float32), want)

    return run


def log_softmax(R: int, V: int, threads: int) -> Case:
    def run(sim: Sim, rng: np.random.Generator) -> None:
        x = rng.normal(size=(R, V)).astype(np.float32) * 20
        y, out = sim.empty(x.nbytes), sim.empty(R * 4)
        job = jobs.LogSoftmax(sim.up(x), y, out, V, V, V)
        sim.launch("log_softmax", job, grid=(R,), threads=threads)
        want, normalizer = reference.log_softmax(x.astype(np.float64))
        close(sim.down(out, (R,), np.float32), normalizer, "f32", absolute=4e-6, relative=2.0**-22)
        close(sim.down(y, x.shape, np.float32), want, "f32", absolute=8e-6, relative=2.0**-22)

    return run


def best(kernel: str, R: int, count: int, threads: int) -> Case:
    """Few distinct values, so that ties decide: the lowest index wins."""

    def run(sim: Sim, rng: np.random.Generator) -> None:
        x = rng.integers(0, max(2, count // 8), (R, count)).astype(np.float32)
        index = np.argmax(x, axis=1)
        parts = np.zeros((R, count), dtype=[("value", "f4"), ("index", "i4")])
        parts["value"] = x
        parts["index"] = np.arange(count) * 3
        out = sim.empty(R * 8)
        is_logits = kernel == "best_logits"
        source = (None, sim.up(x)) if is_logits else (sim.up(parts), None)
        sim.launch(kernel, jobs.Best(*source, out, count, count), grid=(R,), threads=threads)
        got = sim.down(out, (R,), parts.dtype)
        assert np.array_equal(got["index"], index if is_logits else index * 3)
        assert np.array_equal(got["value"], x.max(1))

    return run


def attend(dtype: str, heads: int, D: int, keys: list[int], *, has_bias: bool, appends: bool) -> Case:
    """Decode: one query row per block, each with its own cache and length."""

    def run(sim: Sim, rng: np.random.Generator) -> None:
        B, W, I = len(keys), 5, heads * D
        q = decode(dtype, encode(dtype, rng.normal(size=(B, I)) * D**-0.25))
        table = reference.bias_table(rng, heads, W).astype(np.float32)
        blocks, want, out = (jobs.Attend * B)(), np.zeros((B, I)), sim.empty(B * I * 4)
        q_up, bias_up = sim.up(encode(dtype, q)), sim.up(table)
        size = encode(dtype, q).itemsize
        for b, T in enumerate(keys):
            capacity = (T + 15) // 16 * 16 + 16
            k, v = (decode(dtype, encode(dtype, rng.normal(size=(heads, T, D)))) for _ in range(2))
            old = T - 1 if appends else T
            rows = [sim.up(encode(dtype, a[:, T - 1].reshape(-1))) if appends else None for a in (k, v)]
            caches = (
                sim.up(reference.k_panels(dtype, k[:, :old], capacity)),
                sim.up(reference.v_panels(dtype, v[:, :old], capacity)),
            )
            # With appending keys the length comes from device memory, as in a recorded step.
            position = sim.up(np.array([T - 1], np.int32)) if appends else None
            length = (-1, -1) if appends else (T, T - 1)
            cache = jobs.HeadCache(*caches, capacity, size)
            blocks[b] = jobs.Attend(
                q_up + b * I * size, I, out + b * I * size, I, cache, *rows, bias_up if has_bias else None,
                W, heads, 1, D, *length, False, b, 0, position,
            )  # fmt: skip
            for h in range(heads):
                bias = table[h].astype(np.float64) if has_bias else None
                d = slice(h * D, h * D + D)
                want[b, d] = reference.attend(q[b : b + 1, d], k[h], v[h], bias, T - 1, False)[0]
        splits = -(-max(keys) // jobs.SPLIT_KEYS)
        partial = sim.empty(B * heads * splits * (D + 2) * 4) if splits > 1 else None
        job = jobs.AttendLaunch(sim.up(np.frombuffer(blocks, np.uint8)), partial, splits)
        shared = 4 * (D + (min(max(keys), jobs.SPLIT_KEYS) + 15) // 16 * 16)
        sim.launch(f"attend_{dtype}", job, grid=(heads, B, splits), threads=128, shared=shared)
        if splits > 1:
            sim.launch(f"attend_merge_{dtype}", job, grid=(heads, B), threads=64)
        got = decode(dtype, sim.down(out, (B, I), storage(dtype)))
        close(got, want, dtype, absolute=2.0**-18)

    return run


def attend_rows(dtype: str, heads: int, D: int, sizes: list[int], *, causal: bool, has_bias: bool) -> Case:
    """Encoder: sequences end to end in one packed matrix; store_kv fills the caches from the same rows."""

    def run(sim: Sim, rng: np.random.Generator) -> None:
        R, W, I = sum(sizes), 6, heads * D
        qkv = decode(dtype, encode(dtype, rng.normal(size=(R, 3 * I)) * D**-0.25))
        table = reference.bias_table(rng, heads, W).astype(np.float32)
        rows, bias_up, out = sim.up(encode(dtype, qkv)), sim.up(table), sim.empty(R * I * 4)
        size = encode(dtype, qkv).itemsize
        blocks, stores = (jobs.Attend * len(sizes))(), (jobs.Store * len(sizes))()
        want, first = np.zeros((R, I)), 0
        for b, S in enumerate(sizes):
            capacity = (S + 15) // 16 * 16
            at = rows + first * 3 * I * size
            caches = (sim.empty(heads * capacity * reference.panels(D) * 16 * size) for _ in range(2))
            cache = jobs.HeadCache(*caches, capacity, size)
            stores[b] = jobs.Store(at + I * size, at + 2 * I * size, 3 * I, cache, heads, S, D, 0, 0)
            blocks[b] = jobs.Attend(
                at, 3 * I, out + first * I * size, I, cache, None, None, bias_up if has_bias else None,
                W, heads, S, D, S, 0, causal, 0, 0, None,
            )  # fmt: skip
            part = qkv[first : first + S]
            for h in range(heads):
                q, k, v = (part[:, i * I + h * D : i * I + h * D + D] for i in range(3))
                bias = table[h].astype(np.float64) if has_bias else None
                want[first : first + S, h * D : h * D + D] = reference.attend(q, k, v, bias, 0, causal)
            first += S
        store = jobs.StoreLaunch(sim.up(np.frombuffer(stores, np.uint8)))
        job = jobs.AttendLaunch(sim.up(np.frombuffer(blocks, np.uint8)))
        sim.launch(f"store_kv_{dtype}", store, grid=(max(sizes), heads, len(sizes)), threads=64)
        shared = 4 * (16 * D + 16 * 32 + 2 * W + 32)
        grid = ((max(sizes) + 15) // 16, heads, len(sizes))
        sim.launch(f"attend_rows_{dtype}", job, grid=grid, threads=128, shared=shared)
        # 16 bits: probabilities are rounded before they meet the values on tensor cores.
        rounding = 0.0 if dtype == "f32" else reference.EPSILON[dtype] * np.abs(qkv[:, 2 * I :]).max()
        close(decode(dtype, sim.down(out, (R, I), storage(dtype))), want, dtype, absolute=2.0**-18 + rounding)

    return run


def sample(V: int, top_k: int, top_p: float, temperature: float) -> Case:
    """The token is the one the distribution function over the kept ids names for Philox's number."""

    def run(sim: Sim, rng: np.random.Generator) -> None:
        R = 24
        x = np.round(rng.normal(size=(R, V)) * 3, 1).astype(np.float32)
        x[:, V // 2] = -np.inf
        rows = (jobs.SampleRow * R)(*[jobs.SampleRow(2**40 + 7 * r, r, temperature, top_p, top_k) for r in range(R)])
        token = sim.empty(R * 4)
        job = jobs.Sample(sim.up(x), sim.up(np.frombuffer(rows, np.uint8)), token, V, V)
        sim.launch("sample", job, grid=(R,), threads=256)
        for r, got in enumerate(sim.down(token, (R,), np.int32)):
            scaled = x[r].astype(np.float64) / np.float32(temperature)
            keep = reference.kept(scaled, top_k, top_p)
            p = np.where(keep, np.exp(scaled - scaled.max()), 0.0)
            cdf = np.cumsum(p) / p.sum()
            u = (reference.philox(2**40 + 7 * r, r) >> 8) * 2.0**-24
            assert keep[got], f"row {r}: drew {got}, which top-k or top-p removed"
            assert cdf[got] - p[got] / p.sum() - 1e-5 <= u <= cdf[got] + 1e-5, f"row {r}: not the token of this number"

    return run


def beam_step(requests: int, beams: int, V: int, wanted: int) -> Case:
    """Quarters as scores, so that ties are many and their order is checked."""

    def run(sim: Sim, rng: np.random.Generator) -> None:
        logp = -rng.integers(0, 3 * V, (requests * beams, V)).astype(np.float32) / 4
        score = -rng.integers(0, 9, requests * beams).astype(np.float32) / 4
        out = sim.empty(requests * wanted * 12)
        job = jobs.Beam(sim.up(logp), sim.up(score), out, V, V, beams, wanted)
        sim.launch("beam_step", job, grid=(requests,), threads=256)
        got = sim.down(out, (requests, wanted), np.dtype([("score", "f4"), ("beam", "i4"), ("token", "i4")]))
        flat = (logp + score[:, None]).reshape(requests, beams * V)
        order = np.argsort(-flat, axis=1, kind="stable")[:, :wanted]
        assert np.array_equal(got["beam"] * V + got["token"], order)
        assert np.array_equal(got["score"], np.take_along_axis(flat, order, 1))

    return run


for t in jobs.DTYPES:
    for R, E, threads in ((1, 1, 32), (3, 33, 64), (2, 512, 128), (1, 1030, 256)):
        case(f"rms_norm-{t}-{R}x{E}", rms_norm(t, R, E, threads), small=E < 100)
    for R, E in ((1, 1), (3, 70), (2, 512)):
        case(f"embed-{t}-{R}x{E}", embed(t, R, E), small=E < 100)
    for heads, D, keys in (
        (1, 16, [1]),
        (2, 64, [17, 3]),
        (3, 8, [40, 16, 1]),
        (1, 40, [150]),
        (1, 256, [33]),
        (1, 8, [1030, 512, 3]),
    ):
        for kind, has_bias, appends in (("self", True, True), ("cross", False, False)):
            run = attend(t, heads, D, keys, has_bias=has_bias, appends=appends)
            case(f"attend-{t}-{kind}-{heads}x{D}x{keys[0]}", run, small=D < 64 and keys[0] < 100)
    for heads, D, sizes in ((1, 16, [1]), (2, 64, [17, 33]), (2, 8, [70, 1, 16]), (1, 40, [32]), (1, 256, [19])):
        for kind, causal, has_bias in (("encoder", False, True), ("causal", True, True), ("plain", False, False)):
            run = attend_rows(t, heads, D, sizes, causal=causal, has_bias=has_bias)
            case(f"attend_rows-{t}-{kind}-{heads}x{D}x{sizes[0]}", run, small=D < 64 and sizes[0] < 64)
for count in (1, 3, 8):
    case(f"add_shards-{count}", add_shards(count), small=True)
for R, V, threads in ((1, 1, 32), (2, 33, 64), (1, 1025, 1024), (3, 300, 128)):
    case(f"log_softmax-{R}x{V}", log_softmax(R, V, threads), small=V < 100)
    for kernel in ("best_panels", "best_logits"):
        case(f"{kernel}-{R}x{V}", best(kernel, R, V, threads), small=V < 100)
for V, top_k, top_p, temperature in (
    (5, 0, 1.0, 1.0), (300, 0, 1.0, 0.7), (300, 10, 1.0, 1.0), (64, 5, 1.0, 8.0),
    (300, 0, 0.6, 1.3), (777, 40, 0.8, 1.0),
):  # fmt: skip
    case(f"sample-{V}-k{top_k}-p{top_p}", sample(V, top_k, top_p, temperature), small=V < 100)
for requests, beams, V, wanted in ((1, 1, 4, 2), (2, 3, 50, 6), (1, 4, 700, 8)):
    case(f"beam_step-{requests}x{beams}x{V}", beam_step(requests, beams, V, wanted), small=V < 100)
for name, run, is_small in (*linear_cases.linear_cases(), *step_cases.step_cases()):
    case(name, run, small=is_small)


def seed_of(name: str) -> int:
    return sum(ord(letter) * (i + 1) for i, letter in enumerate(name))


def run_case(sim: Sim, name: str, order: int = 0) -> None:
    sim.order(order)
    try:
        CASES[name](sim, np.random.default_rng(seed_of(name)))
    finally:
        sim.reset()


class WrongJob(c.Structure):
    """The record of every kernel in wrong/wrong.cu."""

    _fields_ = [("x", c.c_void_p), ("n", c.c_int32)]


def _wrong(sim: Sim, kernel: str) -> None:
    sim.launch(f"wrong_{kernel}", WrongJob(sim.up(np.zeros(64, np.float32)), 64), grid=(1,), threads=64)


def main(library: str, wanted: list[str]) -> None:
    sim = Sim(Path(library))
    names = [name for each in wanted for name in (sorted(SMALL) if each == "small" else [each])]
    for name in names:
        try:
            if name.startswith("wrong:"):
                _wrong(sim, name.removeprefix("wrong:"))
            else:
                run_case(sim, name, order=3)
        except Exception as error:
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
            sys.exit(1)
    print(f"ok {len(names)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
