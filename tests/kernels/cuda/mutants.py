"""Seeded faults in the kernels, one line each, and the check that finds each of them.

`python -m tests.kernels.cuda.mutants OBJECTS...` builds every mutant, links it with the sound objects of all else, runs
its cases in a forked process and prints {mutant: what caught it, or "survived"} as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.cuda.cases import CASES, run_case
from tests.kernels.cuda.sim import ROOT, LaunchFailed, Sim

KERNELS = ROOT / "kernels"
BARRIER = "__syncthreads();"
FLAGS = (
    "-std=c++17",
    "-O0",
    "-fPIC",
    "-w",
    "-DT5K_SIM",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fvisibility=hidden",
)
NUMBERS, NAN, RULE = "numbers", "NaN", "rule"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`old` becomes `new` where it first stands after `after` in `file`; `unit` is compiled."""

    file: str
    old: str
    new: str
    caught_by: str
    cases: str
    after: str = ""
    unit: str = ""

    def source(self) -> str:
        text = (KERNELS / self.file).read_text()
        start = text.index(self.after)
        assert self.old in text[start:], f"{self.file}: nothing to change: {self.old!r}"
        return text[:start] + text[start:].replace(self.old, self.new, 1)


def _m(op: str, old: str, new: str, caught_by: str, cases: str = "", after: str = "") -> Mutant:
    return Mutant(file=f"ops/{op}.cu", old=old, new=new, caught_by=caught_by, cases=cases or op, after=after)


def _header(name: str, old: str, new: str, caught_by: str, cases: str, unit: str) -> Mutant:
    return Mutant(file=f"cuda/kernel/{name}", old=old, new=new, caught_by=caught_by, cases=cases, unit=f"ops/{unit}.cu")


MUTANTS: dict[str, Mutant] = {
    "control: nothing changed": _m("attention_rows", "D = (int)b.D", "D = (int)b.D", "survived", "attend_rows-f32"),
    "norm: mean over E + 1": _m("rms_norm", "(float)E", "(float)(E + 1)", NUMBERS),
    "norm: wrong row stride": _m("rms_norm", "blockIdx.x * job.ldy", "blockIdx.x * E", NAN),
    "shards: last one left out": _m("add_shards", "p < job.gpu.count", "p < job.gpu.count - 1", NUMBERS),
    "embed: wrong table stride": _m("embed", "* E;", "* (E - 1);", NUMBERS),
    "sum: block barrier missing": _header(
        "reduce.cuh",
        "part[threadIdx.x / 32] = v;\n    __syncthreads();",
        "part[threadIdx.x / 32] = v;",
        NAN,
        "rms_norm",
        "rms_norm",
    ),
    "sum: half of the warp left out": _header(
        "reduce.cuh", "offset = 16", "offset = 8", NUMBERS, "rms_norm", "rms_norm"
    ),
    "best: highest index wins a tie": _header(
        "reduce.cuh", "b.index < a.index", "b.index > a.index", NUMBERS, "best", "softmax"
    ),
    "best: ties left to chance": _header(
        "reduce.cuh", " || (b.value == a.value && b.index < a.index)", "", NUMBERS, "best", "softmax"
    ),
    "log_softmax: maximum not subtracted": _m("softmax", "expf(x[v] - top)", "expf(x[v])", NUMBERS, "log_softmax"),
    "linear: barrier before the fold missing": _m("linear", BARRIER, "", NAN),
    "linear: unsigned nibbles": _header(
        "formats.cuh",
        "((int)(v << (28 - 4 * i)) >> 28)",
        "(int)(v >> (4 * i) & 15u)",
        NUMBERS,
        "linear-i4",
        "linear",
    ),
    "linear: unsigned bytes": _header(
        "formats.cuh",
        "(float)(i8)(v >> (8 * i) & 0xffu)",
        "(float)(v >> (8 * i) & 0xffu)",
        NUMBERS,
        "linear-i8",
        "linear",
    ),
    "linear: wrong stride in an int4 group": _m("linear", "group % 4 * 16", "group % 4 * 8", NUMBERS, "linear-i4"),
    "linear: groups beyond the last are added": _m(
        "linear", "if (u > 0 && group + u * STEP >= groups) break;", "", NUMBERS, "linear-f32"
    ),
    "linear: lanes left out of the fold": _m("linear", "offset = 4", "offset = 8", NUMBERS, "linear-f32"),
    "linear: shard's first column forgotten": _m("linear", "(int)job.first_column + n", "n", NUMBERS, "linear-f32"),
    "linear: a column too many": _m("linear", "n < job.columns", "n <= job.columns", NUMBERS, "linear-f32"),
    "linear: both gate halves read wi_0": _m(
        "linear", "* halves + half) * dwords", "* halves) * dwords", NUMBERS, "linear-f32"
    ),
    "epilogue: gelu coefficient": _header("epilogue.cuh", "0.044715f", "0.04715f", NUMBERS, "linear-f32", "linear"),
    "epilogue: residual overwritten": _header(
        "epilogue.cuh", "[at] += value", "[at] = value", NUMBERS, "linear-f32", "linear"
    ),
    "epilogue: power of two forgotten": _header(
        "epilogue.cuh", "value *= job.out_scale;", "", NUMBERS, "linear-f16-f16-3", "linear"
    ),
    "epilogue: gate not applied": _header("epilogue.cuh", ") * other", ")", NUMBERS, "linear-f32", "linear"),
    "attend: bias bucket off by one": _m("attention", "+ W + 16", "+ W + 15", NUMBERS, "attend-f32"),
    "attend: barrier after the append missing": _m("attention", BARRIER, "", NAN, "attend-f32"),
    "attend: appended one position late": _m("attention", "k_at(keys - 1,", "k_at(keys,", NUMBERS, "attend-f32"),
    "attend: wrong panel stride in V": _m(
        "attention", "(d / 16 * capacity + t)", "(d / 16 * (capacity - 16) + t)", NUMBERS, "attend-f32"
    ),
    "attend: barrier before the sum missing": _m(
        "attention", BARRIER, "", NAN, "attend-f32", after="part[warp][d] = acc"
    ),
    "rows: causal mask off by one": _m(
        "attention_rows", "key <= position + r", "key <= position + r + 1", NUMBERS, "attend_rows-f32"
    ),
    "rows: old values not faded": _m(
        "attention_rows", "now.acc[r][i] *= fade", "now.acc[r][i] *= 1.0f", NUMBERS, "attend_rows-f32"
    ),
    "rows: warp barrier missing": _m("attention_rows", "__syncwarp();", "", NAN, "attend_rows-f32"),
    "rows: keys beyond the end are mixed in": _m(
        "attention_rows", "head.keys - tile < TILE ? head.keys - tile : TILE", "TILE", NAN, "attend_rows-f32"
    ),
    "tiles: causal mask off by one": _m("attention_tiles", "key > at", "key > at + 1", NUMBERS, "attend_rows-f16"),
    "tiles: keys beyond the end are mixed in": _m(
        "attention_tiles", "key + i < keys ? v", "true ? v", NAN, "attend_rows-f16"
    ),
    "tiles: dims beyond the head are read": _m(
        "attention_tiles", "row < D ? panel", "true ? panel", NAN, "attend_rows-bf16"
    ),
    "tiles: bias of the wrong row": _m(
        "attention_tiles", "position + i / 2 * 8", "position", NUMBERS, "attend_rows-f16"
    ),
    "tiles: neighbouring keys swapped": _m(
        "attention_tiles", "pair_of<A>(e[0], e[1])", "pair_of<A>(e[1], e[0])", NUMBERS, "attend_rows-f16"
    ),
    "tiles: old values not faded": _m("attention_tiles", "*= fade[i % 4 / 2]", "*= 1.0f", NUMBERS, "attend_rows-f16"),
    "tiles: a warp's sum left out": _m(
        "attention_tiles", "w < 4; ++w) sum", "w < 3; ++w) sum", NUMBERS, "attend_rows-f16"
    ),
    "tiles: barrier before the maxima are read missing": _m(
        "attention_tiles", BARRIER, "", NUMBERS, "attend_rows-f16", after="tops[warp][g + r * 8] = mine[r]"
    ),
    "tiles: barrier before the probabilities are read missing": _m(
        "attention_tiles", BARRIER, "", NAN, "attend_rows-f16", after="sums[warp][row] = total"
    ),
    "gemm: wrong fragment column": _m("gemm", "a[m][2] = a_rows[r][k + t + 4]", "a[m][2] = a_rows[r][k + t]", NUMBERS),
    "gemm: fragment rows swapped": _m("gemm", "a[m][1] = a_rows[r + 8]", "a[m][1] = a_rows[r]", NUMBERS),
    "gemm: copies not waited for": _m("gemm", "wait_copies<1>", "wait_copies<2>", NAN),
    "gemm: copies never waited for at the end": _m("gemm", "wait_copies<0>();", "", RULE),
    "gemm: barrier after the copy missing": _m("gemm", BARRIER, "", NAN),
    "gemm: barrier before the next copy missing": _m(
        "gemm", BARRIER, "", NAN, after="multiply<A>(stage.a, pairs, row, column, acc)"
    ),
    "gemm: pairs swapped as they are widened": _m(
        "gemm", "pair_of<A>(w[2 * j], w[2 * j + 1])", "pair_of<A>(w[2 * j + 1], w[2 * j])", NUMBERS, "gemm-i8"
    ),
    "gemm: barrier after widening missing": _m(
        "gemm", BARRIER, "", NAN, "gemm-i8", after="widen<FORMAT, A>(stage, pairs)"
    ),
    "gemm: int8 scale forgotten": _m(
        "gemm", "*= job.gpu.scale[wanted < last ? wanted : last]", "*= 1.0f", NUMBERS, "gemm-i8"
    ),
    "gemm: int4 scale of the wrong column": _m("gemm", "64 + n % 2 * 4 + t", "64 + t", NUMBERS, "gemm-i4"),
    "gemm: int4 groups not kept apart": _m(
        "gemm", "fmaf(scale[i % 2], sums[m][n][i], acc[m][n][i])", "scale[i % 2] * sums[m][n][i]", NUMBERS, "gemm-i4"
    ),
    "gemm: best of the wrong columns": _m(
        "gemm", "p * 16 + i / 2 * 8 + 2 * t + i % 2", "p * 16 + i / 2 * 8 + t + i % 2 * 4", NUMBERS, "gemm-bf16"
    ),
    "gemm: best of a quarter of the lanes": _m(
        "gemm", "lanes_best(best, 4)", "lanes_best(best, 1)", NUMBERS, "gemm-f16"
    ),
    "gemm: gated halves swapped": _m(
        "gemm", "acc[m][n][i], acc[m][(n + 2) % 4][i]", "acc[m][(n + 2) % 4][i], acc[m][n][i]", NUMBERS
    ),
    "sample: top-k off by one": _m("sample", ">= wanted) floor", "> wanted) floor", NUMBERS),
    "sample: top-p the wrong way round": _m("sample", "row.top_p * total", "(1.0f - row.top_p) * total", NUMBERS),
    "sample: nine rounds of Philox": _m("sample", "round < 10", "round < 9", NUMBERS),
    "sample: barrier missing": _m("sample", BARRIER, "", NUMBERS, after="below[threadIdx.x] = mine"),
    "attend: split without its maximum": _m(
        "attention",
        "expf(partial[z * (D + 2) + D] - top), partial[z * (D + 2) + d]",
        "1.0f, partial[z * (D + 2) + d]",
        NUMBERS,
        "attend-f32-self-1x8x1030",
    ),
    "attend: last split left out": _m(
        "attention", "z < used; ++z) total", "z < used - 1; ++z) total", NUMBERS, "attend-f32-self-1x8x1030"
    ),
    "attend: recorded length off by one": _m(
        "attention", "*b.gpu.position + 1", "*b.gpu.position", NAN, "attend-f32-self"
    ),
    "scores: penalty once per occurrence": _m("step", "if (is_first) y", "y", NUMBERS, "process_scores"),
    "scores: n-gram one short": _m(
        "step", "ids + length - (row.ngram - 1)", "ids + length - row.ngram", NUMBERS, "process_scores"
    ),
    "scores: a lone eos word bans eos": _m(
        "step", "prefix == 0 && row.ends_at_eos", "false", NUMBERS, "process_scores"
    ),
    "scores: min new tokens off by one": _m(
        "step", "length - 1 < row.min_new", "length < row.min_new", NUMBERS, "process_scores"
    ),
    "scores: beams keep their logits": _m(
        "step", "row.is_beam ? job.normalizer[r] : 0.0f", "0.0f", NUMBERS, "process_scores"
    ),
    "advance: token written one late": _m(
        "step", "r * state.capacity + position]", "r * state.capacity + position + 1]", NUMBERS, "advance"
    ),
    "advance: ended rows go on": _m("step", "row.is_beam || state.done[r]", "row.is_beam", NUMBERS, "advance"),
    "advance: one token too many": _m("step", "position >= row.last", "position > row.last", NUMBERS, "advance"),
    "advance: eos does not end": _m("step", "(row.ends_at_eos && is_eos(state, token))", "false", NUMBERS, "advance"),
    "beams: beam and token of the wrong base": _m(
        "beams", "last.index / job.V", "last.index / job.beams", NUMBERS, "beam_step"
    ),
    "beams: barrier missing": _m("beams", BARRIER, "", NUMBERS, "beam_step"),
}


def _compile(mutant: Mutant, folder: Path, objects: list[str]) -> Path:
    changed = folder / mutant.file
    changed.parent.mkdir(parents=True, exist_ok=True)
    changed.write_text(mutant.source())
    unit = KERNELS / mutant.unit if mutant.unit else changed
    library = folder / "mutant.so"
    others = [o for o in objects if not Path(o).name.startswith(unit.name)]
    assert len(others) == len(objects) - 1
    command = ["g++", *FLAGS, f"-I{folder}", f"-I{KERNELS}", "-shared", "-o", str(library), "-x", "c++", str(unit)]
    subprocess.run([*command, "-x", "none", *others], check=True)
    return library


def _first_failure(library: Path, names: list[str]) -> str:
    sim = Sim(library)
    for name, order in itertools.product(names, (2, 3)):
        try:
            run_case(sim, name, order)
        except LaunchFailed:
            return RULE
        except AssertionError as error:
            return NAN if "not finite" in str(error) else NUMBERS
    return "survived"


def _outcome(library: Path, names: list[str]) -> str:
    """In a process of its own: a mutant may write anywhere."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writable, _first_failure(library, names).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text or "crash"


def main(objects: list[str]) -> None:
    warnings.simplefilter("ignore")
    outcomes = {}
    for title, mutant in MUTANTS.items():
        names = sorted((n for n in CASES if n.startswith(mutant.cases)), key=len)
        with tempfile.TemporaryDirectory() as folder:
            outcomes[title] = _outcome(_compile(mutant, Path(folder), objects), names)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1:])
