"""Cases of the two matrix kernels: skinny linears in every weight format, tensor-core GEMM in 16 bits."""

# ruff: noqa: N806 - tensor letters
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from tests.kernels.cuda import jobs, reference
from tests.kernels.cuda.reference import Array, decode, encode, storage
from tests.kernels.cuda.sim import Sim

Case = Callable[[Sim, np.random.Generator], None]
EPILOGUES = ("store", "add", "act", "gated", "argmax")


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One launch. kernel: linear or gemm; weights and x by the formats' names."""

    kernel: str
    weights: str
    x: str
    R: int
    K: int
    N: int
    epilogue: str = "store"
    act: str = "relu"
    y_is_f32: bool = False
    out_scale: float = 1.0

    @property
    def name(self) -> str:
        shape = f"{self.R}x{self.K}x{self.N}"
        extra = "-" + self.act if self.epilogue in ("act", "gated") else ""
        extra += "-f32" * self.y_is_f32 + "-scaled" * (self.out_scale != 1)
        return f"{self.kernel}-{self.weights}-{self.x}-{shape}-{self.epilogue}{extra}"

    def __call__(self, sim: Sim, rng: np.random.Generator) -> None:
        ldx, ldy = (self.K + 31) // 32 * 32 + 32, self.N + 3
        x = np.zeros((self.R, ldx))
        x[:, : self.K] = decode(self.x, encode(self.x, rng.normal(size=(self.R, self.K))))
        columns = [rng.normal(size=(self.K, self.N)) for _ in range(2)]
        w = reference.interleave(*columns) if self.epilogue == "gated" else columns[0]
        packed, scale, exact = reference.pack(self.weights, w)
        y_type = "f32" if self.epilogue == "add" or self.y_is_f32 else self.x
        before = rng.normal(size=(self.R, ldy)).astype(np.float32)
        y = sim.up(encode(y_type, before))
        panels = reference.panels(w.shape[1])
        best = sim.empty(self.R * panels * 8)
        job = jobs.Linear(
            jobs.Panels(sim.up(packed), 0, self.K, w.shape[1]), sim.up(encode(self.x, x)), ldx, y, ldy, self.R, self.N,
            EPILOGUES.index(self.epilogue), jobs.ACTIVATIONS.index(self.act), False, self.y_is_f32, False,
            self.out_scale, 1000,
        )  # fmt: skip
        job.scale, job.best, job.best_stride = None if scale is None else sim.up(scale), best, panels
        self._launch(sim, job, panels)
        acc, slack = self._accumulators(x[:, : self.K], exact)
        if self.epilogue == "argmax":
            self._check_best(sim.down(best, (self.R, panels), np.dtype([("v", "f4"), ("i", "i4")])), acc, slack)
            return
        got = decode(y_type, sim.down(y, (self.R, ldy), storage(y_type)))
        want = decode(y_type, encode(y_type, before))
        value, allowed = (each * self.out_scale for each in self._epilogue(acc, slack))
        want[:, : self.N] = value + (want[:, : self.N] if self.epilogue == "add" else 0.0)
        allowed += np.abs(want[:, : self.N]) * (2.0**-22 + (0 if y_type == "f32" else reference.EPSILON[y_type] * 1.01))
        assert np.array_equal(got[:, self.N :], want[:, self.N :]), "wrote beyond column N"
        assert np.isfinite(got).all(), "a result is not finite"
        worst = np.max(np.abs(got - want)[:, : self.N] - allowed - 6e-8)
        assert worst <= 0, f"off by {np.abs(got - want).max():.3g}, {worst:.3g} more than allowed"

    def _launch(self, sim: Sim, job: jobs.Linear, panels: int) -> None:
        if self.kernel == "gemm":
            grid = ((panels + 3) // 4, (self.R + 63) // 64)
            name = self.x if self.weights == self.x else f"{self.weights}_{self.x}"
            sim.launch(f"gemm_{name}", job, grid=grid, threads=128)
        else:
            grid = (reference.panels(self.N), (self.R + 7) // 8)
            sim.launch(f"linear_{self.weights}_{self.x}", job, grid=grid, threads=256)

    def _accumulators(self, x: Array, exact: Array) -> tuple[Array, Array]:
        """[R, columns of W], and how far fp32 sums may lie from them: K 2^-23 sum |x W|."""
        return x @ exact, (np.abs(x) @ np.abs(exact)) * self.K * 2.0**-23 + 1e-30

    def _halves(self, both: Array) -> tuple[Array, Array]:
        cut = both.reshape(self.R, -1, 2, 16)
        return cut[:, :, 0].reshape(self.R, -1)[:, : self.N], cut[:, :, 1].reshape(self.R, -1)[:, : self.N]

    def _epilogue(self, acc: Array, slack: Array) -> tuple[Array, Array]:
        """Values, and allowed errors: activations are at most 1.13-Lipschitz and themselves good to 1e-6."""
        if self.epilogue == "gated":
            (a, b), (sa, sb) = self._halves(acc), self._halves(slack)
            gate = reference.activate(self.act, a)
            return gate * b, (1.2 * sa + 1e-6 * (1 + np.abs(a))) * np.abs(b) + np.abs(gate) * sb
        if self.epilogue == "act":
            return reference.activate(self.act, acc), 1.2 * slack + 1e-6 * (1 + np.abs(acc))
        return acc, slack.copy()

    def _check_best(self, got: Array, acc: Array, slack: Array) -> None:
        for p in range(got.shape[1]):
            columns = acc[:, p * 16 : (p + 1) * 16]
            index = got["i"][:, p] - 1000 - p * 16
            assert ((index >= 0) & (index < columns.shape[1])).all(), "names a column that does not exist"
            chosen = np.take_along_axis(columns, index[:, None], 1)[:, 0]
            allowed = slack[:, p * 16 : (p + 1) * 16].max(1)
            assert (np.abs(got["v"][:, p] - chosen) <= allowed).all()
            assert (chosen >= columns.max(1) - 2 * allowed).all()


def linear_cases() -> Iterator[tuple[str, Case, bool]]:
    """(name, case, is small)."""
    every: list[Linear] = []
    for w in ("f32", "f16", "bf16", "i8", "i4"):
        for x in jobs.DTYPES:
            for R, K, N in ((1, 1, 1), (3, 33, 17), (9, 200, 48), (8, 512, 16)):
                every.append(Linear(kernel="linear", weights=w, x=x, R=R, K=K, N=N, y_is_f32=R == 9))
            every.append(Linear(kernel="linear", weights=w, x=x, R=2, K=70, N=40, epilogue="add"))
            every.append(Linear(kernel="linear", weights=w, x=x, R=5, K=64, N=20, epilogue="gated", act="gelu_new"))
            every.append(Linear(kernel="linear", weights=w, x=x, R=10, K=40, N=30, epilogue="argmax"))
    for act in jobs.ACTIVATIONS:
        every.append(Linear(kernel="linear", weights="f32", x="f32", R=2, K=24, N=16, epilogue="act", act=act))
    for x in jobs.DTYPES:
        # What an fp16 ff hidden beyond 65504 needs, and its inverse.
        scaled = {"act": "gelu_new", "out_scale": 2.0**-6}
        every.append(Linear(kernel="linear", weights=x, x=x, R=3, K=64, N=20, epilogue="gated", **scaled))
        every.append(Linear(kernel="linear", weights=x, x=x, R=3, K=24, N=20, epilogue="add", out_scale=64.0))
    for w, x in (("f16", "f16"), ("bf16", "bf16"), ("i8", "bf16"), ("i4", "bf16")):
        gemm = partial(Linear, kernel="gemm", weights=w, x=x)
        for R, K, N in ((1, 2, 1), (64, 32, 64), (65, 70, 40), (17, 129, 80)):
            every.append(gemm(R=R, K=K, N=N))
        every.append(gemm(R=20, K=64, N=40, epilogue="add", out_scale=4.0))
        every.append(gemm(R=33, K=48, N=50, epilogue="gated", act="gelu_new", out_scale=0.25))
        every.append(gemm(R=5, K=48, N=50, epilogue="act", act="silu", y_is_f32=True))
        every.append(gemm(R=40, K=40, N=90, epilogue="argmax"))
    for linear in every:
        yield linear.name, linear, linear.K < 64 and linear.R < 16
