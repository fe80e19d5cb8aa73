"""Machines in memory behind the seam of `Places`: trials last by a fake clock, and machines are lost as programmed."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from harness.clock import FakeClock
from harness.records import Candidate, Trial
from harness.tune.places import Done, Order, not_run
from harness.units import NS_PER_S
from tests.harness.tune.landscape import memory_mib


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One order on one machine."""

    order: Order
    machine: str
    begin_ns: int
    end_ns: int


class InMemoryPlaces:
    """`count` machines. Of the orders, `lost_frac` lose their machine; half of those answer later all the same, as a
    task does whose node's daemon alone was killed."""

    def __init__(
        self,
        run: Callable[[Candidate, int], Trial],
        clock: FakeClock,
        count: int,
        lost_frac: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.placements: list[Placement] = []
        self.answers_of_the_lost = 0
        self.ended = False
        self._run, self._clock, self._lost_frac = run, clock, lost_frac
        self._rng = random.Random(seed)
        self.machines = tuple(f"m{index}" for index in range(count))
        self._free = [*self.machines]
        self._ends: list[tuple[int, int, str, Done | None]] = []

    set_aside: Mapping[str, str] = MappingProxyType({})
    scales: Mapping[str, float] = MappingProxyType({})
    memories_mib: Mapping[str, float] = MappingProxyType({})

    def check_machines(self) -> None:
        """Machines in memory are equal."""

    def is_free(self, avoid: frozenset[str] = frozenset()) -> bool:
        return bool(set(self._free) - avoid)

    def begin(self, order: Order) -> None:
        machine = min(self._free, key=lambda name: (name in order.avoid, self._rng.random()))
        self._free.remove(machine)
        trial = replace(self._run(order.candidate, order.number), machine=machine)
        if memory_mib(order.candidate) > self.memories_mib.get(machine, math.inf):
            trial = not_run(order, "out_of_memory", "out of memory", machine)
        begin_ns = self._clock.now_ns()
        end_ns = begin_ns + int((trial.duration_s + self._rng.random()) * NS_PER_S)
        done = Done(order=order, trial=trial, machine=machine)
        if self._rng.random() < self._lost_frac:
            lost = Done(order=order, trial=None, lost="the node ended unexpectedly", machine=machine)
            self._push(begin_ns + int(self._rng.random() * (end_ns - begin_ns)), "", lost)
            if self._rng.random() < 0.5:
                self.answers_of_the_lost += 1
                self._push(end_ns, machine, done)
            else:
                self._push(end_ns, machine, None)
        else:
            self._push(end_ns, machine, done)
        self.placements.append(Placement(order=order, machine=machine, begin_ns=begin_ns, end_ns=end_ns))

    def next_done(self) -> Done | None:
        end_ns, _, machine, done = heapq.heappop(self._ends)
        left_ns = max(0, end_ns - self._clock.now_ns())
        self._clock.sleep_s((left_ns + 0.5) / NS_PER_S)  # it cuts off fractions
        if machine:
            self._free.append(machine)
        return done

    def end(self) -> None:
        self.ended = True

    def _push(self, at_ns: int, machine: str, done: Done | None) -> None:
        heapq.heappush(self._ends, (at_ns, len(self.placements) * 2 + bool(machine), machine, done))
