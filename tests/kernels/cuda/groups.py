"""Engines over several simulated GPUs, and what the simulator counts of them."""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.kernels.cuda.sim import Sim


class Live(NamedTuple):
    """What exists on all simulated devices together."""

    allocations: int
    streams: int
    events: int
    graphs: int
    modules: int
    contexts: int


def live(sim: Sim) -> Live:
    six = (c.c_size_t * 6)()
    sim.lib.sim_live(six)
    return Live(*six)


@contextmanager
def devices(sim: Sim, count: int, *, peers: bool = True, schedule: int = 0) -> Iterator[None]:
    """`count` GPUs for the engines loaded inside, peers or not, streams taking turns as `schedule` says."""
    sim.lib.sim_pretend(count, 80, 13000)
    sim.lib.sim_set_peers(int(peers))
    sim.lib.sim_set_schedule(c.c_ulonglong(schedule))
    try:
        yield
    finally:
        sim.forget_errors()
        sim.lib.sim_pretend(1, 80, 13000)
        sim.lib.sim_set_peers(1)
        sim.lib.sim_set_schedule(c.c_ulonglong(0))
        sim.lib.sim_set_capacity(c.c_size_t(1 << 40))
