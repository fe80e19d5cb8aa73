"""Machine classes: which machines' numbers may be compared, and which machine this is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.measure.machine.facts import machine_facts

MUST_MATCH = (
    "cpu_model", "cpu_flags", "cores", "cores_usable", "cpu_quota_cores", "threads_per_core", "numa_nodes",
    "governor", "turbo", "is_virtual",
)  # fmt: skip
"""Facts that move a result by more than any budget: another CPU, fewer cores, another frequency policy. Facts whose
name begins with gpu_ are among them, and of a part of a split machine into how many it is split."""
MUST_MATCH_PREFIXES = ("gpu", "split_into")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Linux's name for one boot of one machine: the same in every container on it."""

TEST_PLACE = "DYNO_TEST_PLACE"
"""The variable by which a test gives a machine another id, so that one can stand for several. Trials show it."""
PART = "DYNO_PART"
"""The variable by which processes on a part of a split machine know that: '2/4' is the second of four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine: `machine_id` names it until it is started again, and `facts` are those of `machine_facts`."""

    machine_id: str
    facts: Mapping[str, object]

    @property
    def machine_class(self) -> str:
        """The class whose machines may be compared."""
        return class_of(self.facts)


def deciding(*machines: Mapping[str, object]) -> tuple[str, ...]:
    """Names of the facts that must be equal for these machines to be compared."""
    prefixed = sorted({name for facts in machines for name in facts if name.startswith(MUST_MATCH_PREFIXES)})
    return (*MUST_MATCH, *prefixed)


def class_of(facts: Mapping[str, object]) -> str:
    """Ten hex digits of the SHA-256 over the facts that must be equal; '' where no facts are known."""
    if not facts:
        return ""
    named = [(name, facts.get(name)) for name in deciding(facts)]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:10]


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """'cores 2 and 4, turbo on and off': the facts by which two machines are of two classes; '' where none differ."""
    found = [
        f"{name} {_shown(one.get(name))} and {_shown(other.get(name))}"
        for name in deciding(one, other)
        if _shown(one.get(name)) != _shown(other.get(name))
    ]
    return ", ".join(found)


@cache
def this_machine() -> Machine:
    """The machine that this process runs on, its facts read once."""
    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    name = hashlib.sha256(boot.encode()).hexdigest()[:8] if boot else "unknown"
    name = os.environ.get(TEST_PLACE) or name
    facts = machine_facts()
    if part := os.environ.get(PART):
        index, count = map(int, part.split("/"))
        name = f"{name}.{index}of{count}"
        facts |= {"split_into": count, "memory_mib": int(str(facts["memory_mib"])) // count}
    return Machine(machine_id=name, facts=facts)


def part_cpus() -> frozenset[int]:
    """The CPUs of the part of its machine that this process measures on; none where it has the whole one."""
    return frozenset(os.sched_getaffinity(0)) if os.environ.get(PART) else frozenset()


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
