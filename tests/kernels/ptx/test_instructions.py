"""Every instruction class of the interpreter against NumPy or plain Python, written from the manual."""

# ruff: noqa: E501, SIM108, SIM300 - PTX reads best with a snippet on a line; A < B are arrays, not constants
from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from tests.kernels.cuda.reference import decode, encode
from tests.kernels.ptx.interpreter import PtxMachine
from tests.kernels.ptx.probe import compute

N = 64
EDGES = [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000, 0x80, 0xFF, 0x8000]


def words(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**32, N, dtype=np.uint64).astype(np.uint32)
    values[: len(EDGES)] = rng.permutation(np.array(EDGES, np.uint32))
    return values


def floats(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=N) * 10.0 ** rng.integers(-6, 6, N)).astype(np.float32)
    values[:8] = rng.permutation(np.array([0, -0.0, 1, -1, 0.5, 1.5, 2.5, -2.5], np.float32))
    return values


A, B, C = words(1), words(2), words(3)
X, Y, Z = floats(4), floats(5), floats(6)
WIDE = A.astype(np.uint64) << 32 | B
SMALL = (B % 40).astype(np.uint32)


def signed(v: np.ndarray) -> list[int]:
    return [int(x) for x in v.view(np.int32)]


def each(f: Callable[..., int], *arrays: np.ndarray, bits: int = 32) -> np.ndarray:
    """f over Python integers, cut to `bits`."""
    values = [f(*[int(v) for v in row]) & (2**bits - 1) for row in zip(*arrays, strict=True)]
    return np.array(values, np.uint64).astype(np.uint64 if bits == 64 else np.uint32)


def s32(v: int) -> int:
    return (v & 0xFFFFFFFF) - ((v & 0x80000000) << 1)


def divided(a: int, b: int) -> int:
    return -1 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def field(v: int, at: int, length: int, is_signed: bool) -> int:
    """bfe.32 of the manual: bits beyond the word repeat the sign, or are zero."""
    top = s32(v) if is_signed else v
    if length == 0:
        return 0
    if at + length >= 32:
        return top >> min(at, 31) if is_signed or at < 32 else 0
    cut = (v >> at) & ((1 << length) - 1)
    return cut - (1 << length) if is_signed and cut >> (length - 1) & 1 else cut


def permuted(a: int, b: int, selector: int) -> int:
    table = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    out = []
    for i in range(4):
        pick = selector >> (4 * i) & 15
        byte = table[pick & 7]
        out.append((255 if byte & 128 else 0) if pick & 8 else byte)
    return int.from_bytes(bytes(out), "little")


def majority(a: int, b: int, c: int) -> int:
    return (a & b) | (a & c) | (b & c)


def dot4(a: int, b: int, c: int, is_signed: bool) -> int:
    kind = np.int8 if is_signed else np.uint8
    bytes_of = [np.array([v], np.uint32).view(kind).astype(int) for v in (a, b)]
    return int(bytes_of[0] @ bytes_of[1]) + c


AT = (A % 35).astype(np.uint32)
INTEGERS: dict[str, tuple[str, list[np.ndarray], np.ndarray]] = {
    "add.u32": ("add.u32 %r, %a, %b;", [A, B], A + B),
    "add.sat.s32": (
        "add.sat.s32 %r, %a, %b;", [A, B], each(lambda a, b: max(-(2**31), min(2**31 - 1, s32(a) + s32(b))), A, B),
    ),
    "sub.s32": ("sub.s32 %r, %a, %b;", [A, B], A - B),
    "add.cc": (
        "add.cc.u32 %x, %a, %b; addc.u32 %r, 0, 0;", [A, B], each(lambda a, b: (a + b) >> 32, A, B),
    ),
    "sub.cc": ("sub.cc.u32 %x, %a, %b; subc.u32 %r, 0, 0;", [A, B], each(lambda a, b: -(a < b), A, B)),
    "mul.lo": ("mul.lo.s32 %r, %a, %b;", [A, B], A * B),
    "mul.hi.u32": ("mul.hi.u32 %r, %a, %b;", [A, B], each(lambda a, b: a * b >> 32, A, B)),
    "mul.hi.s32": ("mul.hi.s32 %r, %a, %b;", [A, B], each(lambda a, b: s32(a) * s32(b) >> 32, A, B)),
    "mul.wide.s32": ("mul.wide.s32 %r, %a, %b;", [A, B], each(lambda a, b: s32(a) * s32(b), A, B, bits=64)),
    "mul.wide.u16": (
        "mul.wide.u16 %r, %a, %b;", [A, B], each(lambda a, b: (a & 0xFFFF) * (b & 0xFFFF), A, B),
    ),
    "mul.lo.u64": ("mul.lo.u64 %r, %a, %a;", [WIDE], WIDE * WIDE),
    "mul.hi.u64": ("mul.hi.u64 %r, %a, %a;", [WIDE], each(lambda a: a * a >> 64, WIDE, bits=64)),
    "mad.lo": ("mad.lo.s32 %r, %a, %b, %c;", [A, B, C], A * B + C),
    "mad.wide.u32": (
        "mad.wide.u32 %r, %a, %b, %c;", [A, B, WIDE], each(lambda a, b, c: a * b + c, A, B, WIDE, bits=64),
    ),
    "div.s32": ("div.s32 %r, %a, %b;", [A, B | 1], each(lambda a, b: divided(s32(a), s32(b)), A, B | 1)),
    "div.u32": ("div.u32 %r, %a, %b;", [A, B | 1], A // (B | 1)),
    "rem.s32": (
        "rem.s32 %r, %a, %b;", [A, B | 1], each(lambda a, b: int(math.fmod(s32(a), s32(b))), A, B | 1),
    ),
    "abs.s32": ("abs.s32 %r, %a;", [A], each(lambda a: abs(s32(a)), A)),
    "neg.s32": ("neg.s32 %r, %a;", [A], 0 - A),
    "min.s32": ("min.s32 %r, %a, %b;", [A, B], each(lambda a, b: min(s32(a), s32(b)), A, B)),
    "max.u32": ("max.u32 %r, %a, %b;", [A, B], np.maximum(A, B)),
    "and or xor not": (
        "and.b32 %x, %a, %b; or.b32 %y, %a, %c; xor.b32 %z, %x, %y; not.b32 %r, %z;", [A, B, C], ~((A & B) ^ (A | C)),
    ),
    "cnot": ("cnot.b32 %r, %a;", [A], (A == 0).astype(np.uint32)),
    "shl": ("shl.b32 %r, %a, %b;", [A, SMALL], each(lambda a, n: a << n, A, SMALL)),
    "shr.u32": ("shr.u32 %r, %a, %b;", [A, SMALL], each(lambda a, n: a >> n, A, SMALL)),
    "shr.s32": ("shr.s32 %r, %a, %b;", [A, SMALL], each(lambda a, n: s32(a) >> n, A, SMALL)),
    "shr.s16": (
        "shr.s16 %x, %a, 8; cvt.s32.s16 %r, %x;", [A], each(lambda a: int(np.uint16(a & 0xFFFF).view(np.int16)) >> 8, A),
    ),
    "shf.l.wrap": (
        "shf.l.wrap.b32 %r, %a, %b, %c;", [A, B, C], each(lambda a, b, n: (b << 32 | a) << (n & 31) >> 32, A, B, C),
    ),
    "shf.r.clamp": (
        "shf.r.clamp.b32 %r, %a, %b, %c;", [A, B, SMALL], each(lambda a, b, n: (b << 32 | a) >> min(n, 32), A, B, SMALL),
    ),
    "bfe.u32": ("bfe.u32 %r, %a, %b, %c;", [A, AT, SMALL], each(lambda a, i, n: field(a, i, n, False), A, AT, SMALL)),
    "bfe.s32": ("bfe.s32 %r, %a, %b, %c;", [A, AT, SMALL], each(lambda a, i, n: field(a, i, n, True), A, AT, SMALL)),
    "bfi": (
        "bfi.b32 %r, %a, %b, %c, 5;", [A, B, AT % 28],
        each(lambda a, b, i: b & ~(31 << i) | (a & 31) << i, A, B, AT % 28),
    ),
    "brev": ("brev.b32 %r, %a;", [A], each(lambda a: int(f"{a:032b}"[::-1], 2), A)),
    "clz": ("clz.b32 %r, %a;", [A], each(lambda a: 32 - a.bit_length(), A)),
    "popc": ("popc.b32 %r, %a;", [A], each(lambda a: a.bit_count(), A)),
    "bfind.u32": ("bfind.u32 %r, %a;", [A], each(lambda a: a.bit_length() - 1, A)),
    "prmt": ("prmt.b32 %r, %a, %b, %c;", [A, B, C], each(permuted, A, B, C)),
    "lop3 (majority)": ("lop3.b32 %r, %a, %b, %c, 0xe8;", [A, B, C], each(majority, A, B, C)),
    "dp4a.s32": ("dp4a.s32.s32 %r, %a, %b, %c;", [A, B, C], each(lambda a, b, c: dot4(a, b, c, True), A, B, C)),
    "dp4a.u32": ("dp4a.u32.u32 %r, %a, %b, %c;", [A, B, C], each(lambda a, b, c: dot4(a, b, c, False), A, B, C)),
    "sad": ("sad.u32 %r, %a, %b, %c;", [A, B, C], each(lambda a, b, c: abs(a - b) + c, A, B, C)),
    "selp": (
        "setp.lt.s32 %p, %a, %b; selp.b32 %r, %a, %b, %p;", [A, B], each(lambda a, b: min(s32(a), s32(b)), A, B),
    ),
    "setp.lo and": (
        "setp.gt.u32 %q, %c, 77; setp.lo.and.u32 %p, %a, %b, %q; selp.u32 %r, 1, 0, %p;", [A, B, C],
        ((A < B) & (C > 77)).astype(np.uint32),
    ),
    "setp p|q": (
        "setp.eq.b32 %p|%q, %a, %b; selp.u32 %x, 1, 0, %p; selp.u32 %y, 2, 0, %q; add.u32 %r, %x, %y;", [A & 1, B & 1],
        np.where((A & 1) == (B & 1), 1, 2).astype(np.uint32),
    ),
    "predicate logic": (
        "setp.gt.s32 %p, %a, 0; setp.gt.s32 %q, %b, 0; xor.pred %p, %p, %q; not.pred %q, %p; @%q mov.u32 %r, 5;"
        "@!%q mov.u32 %r, 6;", [A, B], np.where((A.view(np.int32) > 0) == (B.view(np.int32) > 0), 5, 6).astype(np.uint32),
    ),
    "set": ("set.lt.u32.u32 %r, %a, %b;", [A, B], np.where(A < B, 0xFFFFFFFF, 0).astype(np.uint32)),
    "slct": (
        "slct.b32.s32 %r, %a, %b, %c;", [A, B, C], np.where(C.view(np.int32) >= 0, A, B),
    ),
    "mov pack": ("mov.b64 %r, {%a, %b};", [B, A], WIDE),
    "mov unpack": ("mov.b64 {%x, %y}, %a; sub.u32 %r, %y, %x;", [WIDE], A - B),
    "mov halves": (
        "mov.b32 {%x, %y}, %a; mov.b32 %r, {%y, %x};", [A], A << 16 | A >> 16,
    ),
    "cvt.s32.s8": ("cvt.s32.s8 %r, %a;", [A], A.astype(np.uint8).view(np.int8).astype(np.int32).view(np.uint32)),
    "cvt.s64.s32": ("cvt.s64.s32 %r, %a;", [A], A.view(np.int32).astype(np.int64).view(np.uint64)),
    "cvt.sat.u8.s32": (
        "cvt.sat.u8.s32 %r, %a;", [A], np.clip(A.view(np.int32), 0, 255).astype(np.uint32),
    ),
    "special registers": (
        "mov.u32 %x, %laneid; mov.u32 %y, %ntid.x; mad.lo.u32 %r, %y, 100, %x;", [A],
        (N * 100 + np.arange(N) % 32).astype(np.uint32),
    ),
    "lanemask": ("mov.u32 %r, %lanemask_lt;", [A], ((1 << (np.arange(N) % 32)) - 1).astype(np.uint32)),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS)
def test_integer_instruction(machine: PtxMachine, name: str) -> None:
    snippet, inputs, want = INTEGERS[name]
    (got,) = compute(machine, snippet, inputs, [want.dtype.type])
    np.testing.assert_array_equal(got, want)


def exactly(value: Fraction, mode: str) -> np.float32:
    """The float32 that a real number rounds to: two neighbours found by NumPy, the choice made in fractions."""
    near = np.float32(float(value))
    below = near if Fraction(float(near)) <= value else np.nextafter(near, np.float32(-np.inf))
    if Fraction(float(below)) == value:
        return below
    above = np.nextafter(below, np.float32(np.inf))
    return {"rm": below, "rp": above, "rz": below if value > 0 else above}[mode]


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("op", ["add", "mul", "fma", "div"])
def test_directed_rounding_is_exact(machine: PtxMachine, op: str, mode: str) -> None:
    y = np.where(Y == 0, np.float32(3), Y)
    inputs = [X, y, Z] if op == "fma" else [X, y]
    registers = ", ".join(f"%{name}" for name in "abc"[: len(inputs)])
    (got,) = compute(machine, f"{op}.{mode}.f32 %r, {registers};", inputs, [np.float32])
    f = {
        "add": lambda a, b: a + b,
        "mul": lambda a, b: a * b,
        "fma": lambda a, b, c: a * b + c,
        "div": lambda a, b: a / b,
    }
    for i in range(N):
        exact = f[op](*[Fraction(float(v[i])) for v in inputs])
        assert got[i] == (exactly(exact, mode) if exact else 0)


FLOATS: dict[str, tuple[str, list[np.ndarray], np.ndarray, float]] = {
    "add": ("add.f32 %r, %a, %b;", [X, Y], X + Y, 0),
    "sub": ("sub.rn.f32 %r, %a, %b;", [X, Y], X - Y, 0),
    "mul": ("mul.f32 %r, %a, %b;", [X, Y], X * Y, 0),
    "mul.sat": ("mul.sat.f32 %r, %a, %b;", [X, Y], np.clip(X * Y, 0, 1), 0),
    "abs neg": ("abs.f32 %x, %a; neg.f32 %r, %x;", [X], -np.abs(X), 0),
    "min": ("min.f32 %r, %a, %b;", [X, Y], np.minimum(X, Y), 0),
    "max": ("max.f32 %r, %a, %b;", [X, Y], np.maximum(X, Y), 0),
    "copysign": ("copysign.f32 %r, %a, %b;", [X, Y], np.copysign(Y, X), 0),
    "sqrt.rn": ("sqrt.rn.f32 %r, %a;", [np.abs(X)], np.sqrt(np.abs(X)), 0),
    "rcp.rn": ("rcp.rn.f32 %r, %a;", [X + 20], np.float32(1) / (X + 20), 0),
    "ex2.approx": ("ex2.approx.ftz.f32 %r, %a;", [X % 20], np.exp2((X % 20).astype(np.float64)), 2.0**-22),
    "lg2.approx": ("lg2.approx.f32 %r, %a;", [np.abs(X) + 2], np.log2((np.abs(X) + 2).astype(np.float64)), 2.0**-21),
    "rsqrt.approx": ("rsqrt.approx.f32 %r, %a;", [np.abs(X) + 1], (np.abs(X) + 1.0).astype(np.float32) ** -0.5, 2.0**-21),
    "tanh.approx": ("tanh.approx.f32 %r, %a;", [X], np.tanh(X.astype(np.float64)), 2.0**-10),
    "sin.approx": ("sin.approx.f32 %r, %a;", [X % 3], np.sin((X % 3).astype(np.float64)), 2.0**-20),
    "cvt.rn.f32.s32": ("cvt.rn.f32.s32 %r, %a;", [A], A.view(np.int32).astype(np.float32), 0),
    "cvt.rn.f32.u64": ("cvt.rn.f32.u64 %r, %a;", [WIDE], WIDE.astype(np.float32), 0),
    "cvt.rni.f32.f32": ("cvt.rni.f32.f32 %r, %a;", [X], np.rint(X), 0),
    "cvt.rmi.f32.f32": ("cvt.rmi.f32.f32 %r, %a;", [X], np.floor(X), 0),
    "cvt.sat.f32.f32": ("cvt.sat.f32.f32 %r, %a;", [X], np.clip(X, 0, 1), 0),
    "cvt.rn.f32.f64": ("cvt.rn.f32.f64 %r, %a;", [X.astype(np.float64) / 3], (X.astype(np.float64) / 3).astype(np.float32), 0),
    "f64": (
        "cvt.f64.f32 %a, %a; cvt.f64.f32 %b, %b; fma.rn.f64 %a, %a, %b, %a; cvt.rn.f32.f64 %r, %a;", [X, Y],
        (X.astype(np.float64) * Y + X).astype(np.float32), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
def test_float_instruction(machine: PtxMachine, name: str) -> None:
    snippet, inputs, want, tolerance = FLOATS[name]
    (got,) = compute(machine, snippet, inputs, [np.float32])
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * 4 if "sin" in name else 0)


def test_fma_rounds_once(machine: PtxMachine) -> None:
    (got,) = compute(machine, "fma.rn.f32 %r, %a, %b, %c;", [X, Y, Z], [np.float32])
    for i in range(N):
        exact = Fraction(float(X[i])) * Fraction(float(Y[i])) + Fraction(float(Z[i]))
        assert abs(Fraction(float(got[i])) - exact) <= min(
            abs(Fraction(float(np.nextafter(got[i], np.float32(d)))) - exact) for d in (-np.inf, np.inf)
        )


@pytest.mark.parametrize("to", ["s32", "u32", "s8", "s64"])
@pytest.mark.parametrize(
    ("mode", "rounded"), [("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)]
)
def test_float_to_integer_rounds_and_clamps(
    machine: PtxMachine, to: str, mode: str, rounded: Callable[..., np.ndarray]
) -> None:
    x = X.copy()
    x[:4] = [3e9, -3e9, np.nan, 1e20]
    (got,) = compute(machine, f"cvt.{mode}.{to}.f32 %r, %a;", [x], [np.uint64])
    bits = int(to[1:])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if to[0] == "s" else (0, 2**bits - 1)
    for i in range(N):
        if np.isnan(x[i]):
            want = -(2**63) if bits == 64 else 0
        else:
            want = max(low, min(high, int(rounded(x[i]))))
        assert int(got[i]) & (2**bits - 1) == want & (2**bits - 1)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bit_conversions_and_arithmetic(machine: PtxMachine, dtype: str) -> None:
    x, y = (np.clip(v, -1000, 1000) for v in (X, Y))
    down, back, pair = compute(
        machine,
        f"cvt.rn.{dtype}.f32 %r, %a; cvt.rn.{dtype}x2.f32 %u, %b, %a;"
        + ("cvt.f32.f16 %s, %r;" if dtype == "f16" else "shl.b32 %s, %r, 16;"),
        [x, y], [np.uint16, np.float32, np.uint32],
    )  # fmt: skip
    bits = encode(dtype, x).view(np.uint16)
    assert np.array_equal(down, bits)
    assert np.array_equal(back, decode(dtype, encode(dtype, x)).astype(np.float32))
    assert np.array_equal(pair, encode(dtype, y).view(np.uint16).astype(np.uint32) << 16 | bits)
    (got,) = compute(machine, f"fma.rn.{dtype}x2 %r, %a, %b, %a;", [pair, pair[::-1].copy()], [np.uint32])
    for part in (0, 16):
        a, b = ((v >> part & 0xFFFF).astype(np.uint16) for v in (pair, pair[::-1]))
        a, b = (decode(dtype, v if dtype == "bf16" else v.view(np.float16)) for v in (a, b))
        with np.errstate(over="ignore"):
            want = encode(dtype, a * b + a).view(np.uint16)
        assert np.array_equal((got >> part & 0xFFFF).astype(np.uint16), want)


@pytest.mark.parametrize("mode", ["rn", "rz"])
def test_every_f16_survives_and_rounds_as_numpy_rounds(machine: PtxMachine, mode: str) -> None:
    every = np.arange(0, 0x7C00, 97, dtype=np.uint16)[:256].view(np.float16)
    between = (every.astype(np.float32) * np.float32(1.00031)).astype(np.float32)
    (got,) = compute(machine, f"cvt.{mode}.f16.f32 %r, %a;", [between], [np.uint16])
    nearest = between.astype(np.float16)
    above = nearest.astype(np.float32) > between
    want = np.where(above & (mode == "rz"), np.nextafter(nearest, np.float16(0)), nearest).astype(np.float16)
    assert np.array_equal(got, want.view(np.uint16))


def test_flush_to_zero_keeps_the_sign(machine: PtxMachine) -> None:
    tiny = np.array([1e-40, -1e-40, 1e-37, -3e-39] * 16, np.float32)
    kept, flushed = compute(
        machine, "add.f32 %r, %a, 0f00000000; add.ftz.f32 %s, %a, 0f80000000;", [tiny], [np.float32, np.float32]
    )
    assert np.array_equal(kept, tiny)
    assert np.array_equal(flushed, np.where(np.abs(tiny) < 1.2e-38, np.copysign(np.float32(0), tiny), tiny))
    assert np.array_equal(np.signbit(flushed), np.signbit(tiny))


def test_comparisons_know_nan(machine: PtxMachine) -> None:
    x = np.where(np.arange(N) % 3 == 0, np.nan, X).astype(np.float32)
    ordered, unordered, nans = compute(
        machine,
        "setp.lt.f32 %p, %a, %b; selp.u32 %r, 1, 0, %p; setp.ltu.f32 %p, %a, %b; selp.u32 %s, 1, 0, %p;"
        "setp.nan.f32 %p, %a, %b; selp.u32 %u, 1, 0, %p;",
        [x, Y], [np.uint32] * 3,
    )  # fmt: skip
    is_nan = np.isnan(x)
    assert np.array_equal(ordered, ((x < Y) & ~is_nan).astype(np.uint32))
    assert np.array_equal(unordered, ((x < Y) | is_nan).astype(np.uint32))
    assert np.array_equal(nans, is_nan.astype(np.uint32))


# ---- control, memory, warps -----------------------------------------------------------------------------------------


def test_divergent_loops_and_branches_meet_again(machine: PtxMachine) -> None:
    """Collatz steps of every thread's own number, then a sum over the warp."""
    body = """
    mov.u32 %x, %a; mov.u32 %r, 0;
$LOOP: setp.le.u32 %p, %x, 1; @%p bra $DONE;
    and.b32 %y, %x, 1; setp.eq.u32 %q, %y, 0; @%q bra $EVEN;
    mad.lo.u32 %x, %x, 3, 1; bra.uni $NEXT;
$EVEN: shr.u32 %x, %x, 1;
$NEXT: add.u32 %r, %r, 1; bra $LOOP;
$DONE: mov.u32 %s, %r; mov.u32 %z, 16;
$FOLD: shfl.sync.bfly.b32 %y, %s, %z, 31, -1; add.u32 %s, %s, %y;
    shr.u32 %z, %z, 1; setp.ne.u32 %p, %z, 0; @%p bra $FOLD;
"""
    numbers = np.arange(1, N + 1, dtype=np.uint32)

    def collatz(n: int) -> int:
        return 0 if n == 1 else 1 + collatz(3 * n + 1 if n % 2 else n // 2)

    steps, total = compute(machine, body, [numbers], [np.uint32] * 2)
    want = np.array([collatz(int(n)) for n in numbers], np.uint32)
    assert np.array_equal(steps, want)
    assert np.array_equal(total, np.repeat(want.reshape(2, 32).sum(1), 32))


def test_branch_table(machine: PtxMachine) -> None:
    body = """
    and.b32 %x, %t, 3; brx.idx %x, $TABLE;
$TABLE: .branchtargets $A, $B, $A, $C;
$A: mov.u32 %r, 10; bra $END;
$B: mov.u32 %r, 20; bra $END;
$C: mov.u32 %r, 30;
$END:
"""
    (got,) = compute(machine, body, [A], [np.uint32])
    assert np.array_equal(got, np.array([10, 20, 10, 30] * 16, np.uint32))


LANE = np.arange(N) % 32
BASE = np.arange(N) - LANE


@pytest.mark.parametrize(
    ("form", "operands", "source"),
    [
        ("up", "3, 0", np.where(LANE >= 3, LANE - 3, LANE)),
        ("down", "5, 31", np.where(LANE + 5 < 32, LANE + 5, LANE)),
        ("bfly", "9, 31", LANE ^ 9),
        ("idx", "7, 31", np.full(N, 7)),
        ("idx", "2, 0x181f", LANE // 8 * 8 + 2),  # segments of eight
        ("down", "1, 0x1c1f", np.where(LANE % 4 < 3, LANE + 1, LANE)),  # segments of four
    ],
)
def test_shuffles(machine: PtxMachine, form: str, operands: str, source: np.ndarray) -> None:
    moved, inside = compute(
        machine, f"shfl.sync.{form}.b32 %r|%p, %a, {operands}, -1; selp.u32 %s, 1, 0, %p;", [A], [np.uint32] * 2
    )
    assert np.array_equal(moved, A[BASE + source])
    assert np.array_equal(inside[LANE != source], np.ones((LANE != source).sum(), np.uint32))


def test_votes_and_warp_reductions(machine: PtxMachine) -> None:
    body = """
    setp.gt.s32 %p, %a, 0;
    vote.sync.ballot.b32 %r, %p, -1;
    vote.sync.any.pred %q, %p, -1; selp.u32 %s, 1, 0, %q;
    redux.sync.add.u32 %u, %a, -1;
    and.b32 %x, %a, 3; match.any.sync.b32 %v, %x, -1;
"""
    ballot, any_, total, same = compute(machine, body, [A], [np.uint32] * 4)
    for w in range(2):
        part = A[w * 32 : w * 32 + 32]
        positive = part.view(np.int32) > 0
        assert (ballot[w * 32 : w * 32 + 32] == sum(int(b) << i for i, b in enumerate(positive))).all()
        assert (any_[w * 32 : w * 32 + 32] == positive.any()).all()
        assert (total[w * 32 : w * 32 + 32] == part.sum(dtype=np.uint32)).all()
        for i in range(32):
            assert same[w * 32 + i] == sum(int(v & 3 == part[i] & 3) << j for j, v in enumerate(part))


def test_a_collective_of_half_a_warp_and_activemask(machine: PtxMachine) -> None:
    body = """
    and.b32 %x, %t, 16; setp.ne.u32 %p, %x, 0; mov.u32 %r, 7; mov.u32 %s, 0; @%p bra $END;
    shfl.sync.bfly.b32 %r, %a, 1, 31, 0xffff;
    activemask.b32 %s;
$END:
"""
    moved, active = compute(machine, body, [A], [np.uint32] * 2)
    low = LANE < 16
    assert np.array_equal(moved, np.where(low, A[np.arange(N) ^ 1], 7))
    assert np.array_equal(active, np.where(low, 0xFFFF, 0))


def test_shared_memory_barriers_vectors_and_generic_addresses(machine: PtxMachine) -> None:
    """Each warp writes 16-byte rows, the other reads them through generic pointers."""
    body = """
    .shared .align 16 .b8 box[1024];
    mov.u32 %x, box; mad.lo.u32 %x, %t, 16, %x;
    add.u32 %y, %a, 1; add.u32 %z, %a, 2;
    st.shared.v4.u32 [%x], {%a, %y, %z, %t};
    bar.sync 0;
    xor.b32 %y, %t, 32; mul.wide.u32 %b, %y, 16;
    mov.u64 %c, box; cvta.shared.u64 %c, %c; add.s64 %c, %c, %b;
    ld.v2.u32 {%r, %s}, [%c]; ld.u32 %v, [%c+12];
    ld.u16 %d, [%c+8]; cvt.u32.u16 %u, %d;
"""
    first, second, third, last = compute(machine, body, [A], [np.uint32] * 4)
    other = A[np.arange(N) ^ 32]
    assert np.array_equal(first, other)
    assert np.array_equal(second, other + 1)
    assert np.array_equal(third, (other + 2) & 0xFFFF)
    assert np.array_equal(last, (np.arange(N) ^ 32).astype(np.uint32))


def test_local_memory_and_constants(machine: PtxMachine) -> None:
    body = """
    .local .align 8 .b8 depot[16]; .reg .b64 %sp;
    mov.u64 %sp, depot; st.local.u32 [%sp+4], %a; cvta.local.u64 %sp, %sp; ld.u32 %r, [%sp+4];
    and.b32 %x, %t, 3; mul.wide.u32 %b, %x, 4; mov.u64 %c, table; add.s64 %c, %c, %b; ld.global.u32 %s, [%c];
"""
    mine, found = compute(machine, body, [A], [np.uint32] * 2, ".global .align 4 .u32 table[4] = {11, 22, 0x21, -1};")
    assert np.array_equal(mine, A)
    assert np.array_equal(found, np.array([11, 22, 33, 0xFFFFFFFF] * 16, np.uint32))


def test_atomics(machine: PtxMachine) -> None:
    body = """
    .shared .align 4 .b8 cell[12];
    mov.u32 %x, cell; setp.ne.u32 %p, %t, 0; @%p bra $GO;
    st.shared.u32 [%x], 0; st.shared.u32 [%x+4], 0; st.shared.u32 [%x+8], 0;
$GO: bar.sync 0;
    atom.shared.add.u32 %y, [%x], 3; red.shared.max.u32 [%x+4], %a; atom.shared.add.f32 %z, [%x+8], 0f3F000000;
    bar.sync 0;
    ld.shared.u32 %r, [%x]; ld.shared.u32 %s, [%x+4]; div.u32 %u, %y, 3; ld.shared.u32 %v, [%x+8];
"""
    total, largest, turn, sum_ = compute(machine, body, [A], [np.uint32] * 4)
    assert (total == 3 * N).all()
    assert (largest == A.max()).all()
    assert sorted(turn) == list(range(N))
    assert (sum_.view(np.float32) == N / 2).all()


def test_asynchronous_copies_land_after_their_wait_and_zero_fill(machine: PtxMachine) -> None:
    body = """
    .shared .align 16 .b8 box[1024];
    mov.u32 %x, box; mad.lo.u32 %x, %t, 16, %x;
    and.b32 %y, %t, 63; ld.param.u64 %b, [job]; shr.u32 %z, %t, 2; mul.wide.u32 %c, %z, 16; add.s64 %b, %b, %c;
    cp.async.cg.shared.global [%x], [%b], 16, 12; cp.async.commit_group; cp.async.wait_group 0;
    bar.sync 0;
    xor.b32 %y, %t, 33; mov.u32 %x, box; mad.lo.u32 %x, %y, 16, %x;
    ld.shared.u32 %r, [%x+8]; ld.shared.u32 %s, [%x+12];
"""
    third, filled = compute(machine, body, [A], [np.uint32] * 2)
    rows = (np.arange(N) ^ 33) // 4
    assert np.array_equal(third, A[rows * 4 + 2])
    assert not filled.any()


def matrices(rng: np.random.Generator, dtype: str, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if dtype in ("s8", "u8"):
        low = -128 if dtype == "s8" else 0
        a, b = (rng.integers(low, low + 256, s) for s in ((16, k), (k, 8)))
        return a, b, rng.integers(-1000, 1000, (16, 8))
    a, b, c = (rng.normal(size=s) for s in ((16, k), (k, 8), (16, 8)))
    return a, b, c.astype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "k"),
    [("f16", 16), ("f16", 8), ("bf16", 16), ("bf16", 8), ("tf32", 8), ("s8", 32), ("s8", 16), ("u8", 32)],
)
def test_mma_fragments(machine: PtxMachine, dtype: str, k: int) -> None:
    """Fragments as the manual's formulas give row and column of element i of a lane, written out per shape."""
    a, b, c = matrices(np.random.default_rng(k), dtype, k)
    size = {"f16": 2, "bf16": 2, "tf32": 4, "s8": 1, "u8": 1}[dtype]
    if size == 1:
        raw = [m.astype(np.int16).astype(np.uint8) for m in (a, b)]
    elif dtype == "tf32":
        raw = [(m.astype(np.float32).view(np.uint32) & 0xFFFFE000) for m in (a, b)]
        a, b = (m.view(np.float32).astype(np.float64) for m in raw)
    else:
        raw = [encode(dtype, m) for m in (a, b)]
        a, b = (decode(dtype, m) for m in raw)
        raw = [m.view(np.uint16) for m in raw]
    per, registers_a = 4 // size, 16 * k * size // 128
    lanes = np.zeros((32, 8), np.uint32)
    for lane in range(32):
        group, t = lane // 4, lane % 4
        for i in range(registers_a * per):
            reg, part = divmod(i, per)
            row, column = group + 8 * (reg % 2), t * per + part + (reg // 2) * 4 * per
            lanes[lane, reg] |= np.uint32(int(raw[0][row, column]) << (8 * size * part))
        for i in range(registers_a // 2 * per):
            reg, part = divmod(i, per)
            lanes[lane, 4 + reg] |= np.uint32(int(raw[1][t * per + part + reg * 4 * per, group]) << (8 * size * part))
    sums = c.view(np.uint32) if size > 1 else c.astype(np.int32).view(np.uint32)
    accumulators = np.stack(
        [sums[lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2] for lane in range(32) for i in range(4)]
    )
    kinds = f"s32.{dtype}.{dtype}.s32.satfinite" if size == 1 else f"f32.{dtype}.{dtype}.f32"
    names_a = ", ".join(f"%m{i}" for i in range(registers_a))
    names_b = ", ".join(f"%m{4 + i}" for i in range(registers_a // 2))
    body = f"""
    .reg .b32 %m<8>, %n<4>;
    {" ".join(f"ld.global.u32 %m{i}, [%at0+{4 * i}];" for i in range(8))}
    {" ".join(f"ld.global.u32 %n{i}, [%at1+{4 * i}];" for i in range(4))}
    mma.sync.aligned.m16n8k{k}.row.col.{kinds} {{%n0, %n1, %n2, %n3}}, {{{names_a}}}, {{{names_b}}}, {{%n0, %n1, %n2, %n3}};
    mov.u32 %r, %n0; mov.u32 %s, %n1; mov.u32 %u, %n2; mov.u32 %v, %n3;
"""
    wide = [lanes.view(np.dtype((np.void, 32))).ravel(), accumulators.view(np.dtype((np.void, 16))).ravel()]
    got = compute(machine, body, wide, [np.uint32] * 4)
    want = a @ b + c
    for lane in range(32):
        for i in range(4):
            value = want[lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2]
            if size == 1:
                assert got[i][lane].view(np.int32) == value
            else:
                assert abs(got[i][lane].view(np.float32) - value) < 1e-5


@pytest.mark.parametrize("trans", [False, True])
def test_ldmatrix(machine: PtxMachine, trans: bool) -> None:
    body = f"""
    .shared .align 16 .b8 box[512];
    mov.u32 %x, box; mad.lo.u32 %x, %t, 16, %x;
    ld.global.v4.u32 {{%r, %s, %u, %v}}, [%at0]; st.shared.v4.u32 [%x], {{%r, %s, %u, %v}};
    bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x4{".trans" if trans else ""}.shared.b16 {{%r, %s, %u, %v}}, [%x];
"""
    stored = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    rows = stored.reshape(32, 8).view(np.dtype((np.void, 16))).ravel()
    got = compute(machine, body, [rows], [np.uint32] * 4)
    for i in range(4):
        matrix = stored[i].T if trans else stored[i]
        pairs = matrix.reshape(32, 2).astype(np.uint32)
        assert np.array_equal(got[i], pairs[:, 0] | pairs[:, 1] << 16)
