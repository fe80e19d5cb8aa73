"""Seeded faults of tests/kernels/cuda/mutants.py as PTX, and which check of the interpreter finds each.

The table beside the simulator's says what the second tier adds: a missing barrier is a race, or a read of what nobody
has written yet, named with its line, where the simulator sees wrong numbers.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from tests.kernels.cuda.cases import CASES, run_case
from tests.kernels.cuda.mutants import MUTANTS
from tests.kernels.cuda.sim import LaunchFailed
from tests.kernels.ptx import sources
from tests.kernels.ptx.interpreter import PtxMachine

NUMBERS, NAN, RACE, UNINITIALISED, UNDER_WAY, NO_WAIT, BOUNDS, SURVIVED = (
    "numbers", "NaN", "race", "uninitialised", "copy under way", "copy never waited for", "out of bounds", "survived",
)  # fmt: skip
RULES = {
    "race in": RACE,
    "uninitialised": UNINITIALISED,
    "still under way": UNDER_WAY,
    "never waited for": NO_WAIT,
    "out of bounds": BOUNDS,
}

CAUGHT_BY = {
    "control: nothing changed": SURVIVED,
    "norm: mean over E + 1": NUMBERS,
    "norm: wrong row stride": NAN,
    "embed: wrong table stride": NUMBERS,
    "sum: block barrier missing": UNINITIALISED,
    "best: ties left to chance": NUMBERS,
    "attend: bias bucket off by one": NUMBERS,
    "attend: barrier after the append missing": UNINITIALISED,
    "attend: barrier before the sum missing": UNINITIALISED,
    "rows: causal mask off by one": NUMBERS,
    "rows: warp barrier missing": RACE,
    "gemm: wrong fragment column": NUMBERS,
    "gemm: fragment rows swapped": NUMBERS,
    "gemm: copies not waited for": UNDER_WAY,
    "gemm: barrier after the copy missing": UNINITIALISED,
    "gemm: barrier before the next copy missing": RACE,
    "gemm: barrier after widening missing": UNINITIALISED,
    "gemm: int4 scale of the wrong column": NUMBERS,
    "epilogue: power of two forgotten": NUMBERS,
    "sample: barrier missing": RACE,
    "beams: barrier missing": RACE,
}
"""Mutant -> what finds it in PTX. The others are left to the simulator: each costs a compilation.

"gemm: copies never waited for at the end" breaks the simulator's rule only: the group that is left is empty.
"""

NEEDS = {"ops/attention_rows.cu": ("ops/attention.cu",)}
"""Units whose cases launch kernels of other units."""


def mutant_ptx(title: str) -> str:
    """NVRTC's PTX of the mutated op, kept under build/ by the mutated text."""
    mutant = MUTANTS[title]
    unit = mutant.unit or mutant.file
    units = (*NEEDS.get(unit, ()), unit)
    text = mutant.source()
    digest = hashlib.sha256("".join([*units, text, *sources._headers().values()]).encode()).hexdigest()[:16]
    kept = sources.FOLDER / "mutants" / f"{digest}.ptx"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / "mutant.ptx"
            made.write_text(sources.changed_ptx(mutant.file, text, units))
            made.rename(kept)
    return kept.read_text()


def outcome(machine: PtxMachine, title: str) -> tuple[str, str]:
    """(what found the mutant, its words). Cases from the smallest on, threads in several orders."""
    machine.load(mutant_ptx(title))
    names = sorted((n for n in CASES if n.startswith(MUTANTS[title].cases)), key=len)
    for order in (2, 3):
        for name in names:
            try:
                run_case(machine, name, order)
            except LaunchFailed as failure:
                found = [rule for words, rule in RULES.items() if words in str(failure)]
                return (found or ["another rule"])[0], str(failure)
            except AssertionError as error:
                return (NAN if "not finite" in str(error) else NUMBERS), str(error)
    return SURVIVED, ""
