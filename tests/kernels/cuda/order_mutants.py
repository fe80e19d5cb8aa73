"""Seeded faults in the order of streams: a wait, a record or a synchronisation left out of the host's code.

`python -m tests.kernels.cuda.order_mutants FOLDER OUT` builds one libt5k in which an environment variable leaves out a
statement, runs a model over two simulated GPUs with each, streams taking turns in several orders with and without peer
access, and prints {mutant: how it showed, or "survived"} as JSON. FOLDER: a checkpoint; OUT: where the library goes.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines import t5
from engines.errors import EngineError
from tests.kernels.build import ROOT, cmake_build
from tests.kernels.cuda.groups import devices
from tests.kernels.cuda.sim import Sim, build

HOST = ROOT / "kernels/cuda/host"
TOKENS, REFUSED, SURVIVED = "tokens", "refused", "survived"
"""Other answers than the CPU device's; a driver's error, or the process ended; neither, in any order of turns."""
PROMPTS = [[5, 9, 17, 1], [40, 1]]
PARAMS: tuple[dict[str, Any], ...] = ({"do_sample": True, "seed": 5, "top_k": 20}, {})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`statement`, where it first stands after `after` in `file`, is not executed; or `instead` is."""

    statement: str
    after: str
    file: str = "group.cpp"
    instead: str = ""


def _f(statement: str, after: str, *, instead: str = "", file: str = "group.cpp") -> Fault:
    return Fault(statement=statement, after=after, instead=instead, file=file)


MUTANTS: dict[str, Fault] = {
    "control: nothing changed": _f("if (is_rewriting()) return Status::good();", "::add_shards"),
    "order: parts of other ranks read before they are there": _f(
        "T5K_TRY(wait_for_all(ready_));", "::add_shards"
    ),
    "order: the last rank does not say that its part is there": _f(
        "for (size_t r = 0; r < ranks_.size(); ++r) T5K_TRY(mark(ready_, r));", "::add_shards",
        instead="for (size_t r = 0; r + 1 < ranks_.size(); ++r) T5K_TRY(mark(ready_, r));",
    ),
    "order: parts written again before all have read them": _f("T5K_TRY(wait_for_all(read_));", "::linear("),
    "order: maxima taken before all ranks have theirs": _f(
        "return is_rewriting() ? Status::good() : gather();", "::join_maxima",
        instead="return Status::good();",
    ),
    "order: logits read before all ranks have theirs": _f(
        "return is_rewriting() ? Status::good() : gather();", "::linear_joined",
        instead="return Status::good();",
    ),
    "order: others begin a recorded step outside it": _f(
        "if (phase == Phase::run || phase == Phase::capture) T5K_TRY(scatter());", "::begin_step"
    ),
    "order: parts are not marked as read": _f(
        "for (size_t r = 0; r < ranks_.size(); ++r) T5K_TRY(mark(read_, r));", "::add_shards"
    ),
    "order: a part copied on its owner's stream": _f(
        "T5K_TRY(send(number(here.back()), r, number(at(from.parts[owner], owner)), owner, bytes, r));", "::add_shards",
        instead="T5K_TRY(send(number(here.back()), r, number(at(from.parts[owner], owner)), owner, bytes, owner));",
    ),
    "order: tokens fetched by the others before they are chosen": _f(
        "T5K_TRY(send(number(ranks_[r]->batch_.state.token), r, number(from.token), 0, bytes, 0));", "::choose",
        instead="T5K_TRY(send(number(ranks_[r]->batch_.state.token), r, number(from.token), 0, bytes, r));",
    ),
    "order: the host takes tokens before they are there": _f(
        'T5K_TRY(check(driver_.event_synchronize(events_[turn]), "cuEventSynchronize"));', "::take(",
        file="steps.cpp",
    ),
    "order: the host reads memory before it is written": _f(
        "return wait();", "::read(void *host", file="device.cpp",
        instead="return Status::good();",
    ),
}  # fmt: skip


def _with_faults(name: str) -> str:
    """A source in which each of its faults hangs on T5K_FAULT."""
    text = (HOST / name).read_text()
    for title, fault in MUTANTS.items():
        if fault.file != name or title.startswith("control"):
            continue
        start = text.index(fault.after)
        assert fault.statement in text[start:], f"{name}: nothing to leave out: {fault.statement!r}"
        number = list(MUTANTS).index(title)
        switched = f"if (t5k_has_fault({number})) {{ {fault.instead} }} else {{ {fault.statement} }}"
        text = text[:start] + text[start:].replace(fault.statement, switched, 1)
    return text


def build_library(out: Path) -> Path:
    """libt5k with every fault in it, none switched on."""
    folder = ROOT / "build/test-plain"
    cmake_build(folder, "-DT5K_TESTS=ON", "-DT5K_SANITIZE=")
    names = sorted({fault.file for fault in MUTANTS.values()})
    sound = [p for p in folder.rglob("*.o") if not (p.parent.name == "host" and p.name.removesuffix(".o") in names)]
    objects = [str(p) for p in sound if "t5k_smoke" not in str(p)]
    out.mkdir(parents=True)
    for name in names:
        (out / name).write_text(_with_faults(name))
    (out / "fault.h").write_text(
        "#include <cstdlib>\n"
        "inline bool t5k_has_fault(int n) {\n"
        '    const char *wanted = std::getenv("T5K_FAULT");\n'
        "    return wanted && std::atoi(wanted) == n;\n"
        "}\n"
    )
    library = out / "libt5k.so"
    flags = ["-std=c++17", "-O0", "-fPIC", "-w", "-fvisibility=hidden", "-include", str(out / "fault.h")]
    command = ["g++", *flags, f"-I{ROOT / 'kernels'}", "-shared", "-o", str(library), *(str(out / n) for n in names)]
    subprocess.run([*command, *objects, "-ldl", "-lpthread"], check=True)
    return library


def _answers(engine: Any) -> tuple[list[list[list[int]]], np.ndarray]:
    """Ids by each way of choosing, which runs a step, records it and repeats it; and encoder rows."""
    ids = [engine.generate(PROMPTS, max_new_tokens=3, ignore_eos=True, **params) for params in PARAMS]
    return ids, engine.encode(PROMPTS[:1])[0].copy()  # as it is now


def _forked(work: Callable[[], bool]) -> str:
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        code = 2
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = 0 if work() else 1
        except (EngineError, MemoryError):
            pass
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return {0: SURVIVED, 1: TOKENS}.get(os.waitstatus_to_exitcode(status), REFUSED)


def _outcome(sim: Sim, folder: str, wanted: tuple[list[list[list[int]]], np.ndarray]) -> str:
    """The first order of turns, with or without peer access, that shows the fault."""

    def run(schedule: int, peers: bool) -> bool:
        with devices(sim, 2, peers=peers, schedule=schedule):
            engine = t5.load(folder, device="cuda-sim", tensor_parallel_degree=2, threads=1, max_slots=4)
            with engine:
                ids, rows = _answers(engine)
        return ids == wanted[0] and np.allclose(rows, wanted[1], atol=1e-3)

    for schedule in (2, 3):
        for peers in (True, False):
            found = _forked(lambda s=schedule, p=peers: run(s, p))
            if found != SURVIVED:
                return found
    return SURVIVED


def main(folder: str, out: str) -> None:
    os.environ["T5K_LIBRARY"] = str(build_library(Path(out)))
    sim = Sim(build())
    with t5.load(folder, threads=1, max_slots=4) as engine:
        wanted = _answers(engine)
    outcomes = {}
    for number, title in enumerate(MUTANTS):
        os.environ["T5K_FAULT"] = str(number)
        outcomes[title] = _outcome(sim, folder, wanted)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
