"""Machines of a class that differ in memory: which of them cannot hold a candidate, by the plan for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from types import MappingProxyType
from typing import Self

from harness.records import Candidate
from harness.space.candidates import SpacePlan

PlanFor = Callable[[float], SpacePlan]
"""What can be launched on a machine with so many MiB."""


class TooSmall:
    """For each candidate that some machine cannot hold: these machines, by their ids."""

    def __init__(self, machines: Mapping[str, frozenset[str]] = MappingProxyType({})) -> None:
        self._machines = machines

    @classmethod
    def by_plans(cls, plan: SpacePlan, plan_for: PlanFor, memories_mib: Mapping[str, float]) -> Self:
        """Of the candidates of `plan`, for machines with these memories."""
        fitting = {mib: {each.candidate_id for each in plan_for(mib).candidates} for mib in {*memories_mib.values()}}
        found: dict[str, frozenset[str]] = {}
        for name in (each.candidate_id for each in plan.candidates):
            if machines := frozenset(machine for machine, mib in memories_mib.items() if name not in fitting[mib]):
                found[name] = machines
        return cls(found)

    def machines(self, candidate: Candidate) -> frozenset[str]:
        """Those that cannot hold it."""
        return self._machines.get(candidate.candidate_id, frozenset())

    def nowhere(self, here: Iterable[str]) -> Set[str]:
        """The candidates that none of the machines `here` can hold."""
        return {name for name, machines in self._machines.items() if machines.issuperset(here)}

    def not_now(self, is_free: Callable[[frozenset[str]], bool]) -> Set[str]:
        """The candidates that no free machine can hold; `is_free` is asked with machines to avoid."""
        busy = {machines for machines in {*self._machines.values()} if not is_free(machines)}
        return {name for name, machines in self._machines.items() if machines in busy}
