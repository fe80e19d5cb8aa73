"""The share of a split machine that a part gets: of the CPU cores, whole and side by side, and of the GPUs, by UUID."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from harness.errors import EnvironmentFault
from harness.measure.machine.machine_class import PART
from harness.measure.machine.nvml import VISIBLE, Gpus

T = TypeVar("T")
CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The CPUs, and the variables of a process that has them; GPUs are leased by one of these."""

    cpus: frozenset[int]
    variables: Mapping[str, str] = field(default_factory=dict)


def lease(part: str, env: Mapping[str, str], *, nvml: Any = pynvml, cpus: Path = CPUS) -> Lease:
    """What the part 'i/N' of this machine gets, of what a process with the variables `env` may use. Raises
    EnvironmentFault where N equal parts cannot be made of it."""
    index, count = map(int, part.split("/"))
    cores = _cut("CPU core", physical_cores(os.sched_getaffinity(0), cpus), index, count)
    variables = {PART: part}
    if uuids := _uuids(env, nvml):
        variables[VISIBLE] = ",".join(_cut("GPU", uuids, index, count))
    return Lease(cpus=frozenset(cpu for core in cores for cpu in core), variables=variables)


def physical_cores(cpus: Collection[int], root: Path = CPUS) -> list[tuple[int, ...]]:
    """The CPUs of each physical core, those of a package one after the other; where the kernel shows no topology each
    CPU is a core."""
    cores: dict[str, list[int]] = {}
    for cpu in sorted(cpus):
        cores.setdefault(_topology(root, cpu, "thread_siblings_list") or str(cpu), []).append(cpu)

    def place(core: Sequence[int]) -> tuple[int, int]:
        package = _topology(root, core[0], "physical_package_id")
        return (int(package) if package.isdigit() else 0), core[0]

    return [tuple(core) for core in sorted(cores.values(), key=place)]


def _topology(root: Path, cpu: int, name: str) -> str:
    try:
        return (root / f"cpu{cpu}/topology/{name}").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _uuids(env: Mapping[str, str], nvml: Any) -> list[str]:
    """The GPUs that a process with `env` may use."""
    with Gpus(nvml) as gpus:
        found = gpus.uuids
    known = [uuid for uuid in found if uuid is not None]
    if len(known) < len(found):
        raise EnvironmentFault("a GPU of it has no UUID, by which a part leases it; leave --split out")
    visible = env.get(VISIBLE)
    if visible is None or not known:
        return known
    if visible.strip() in ("", "-1"):  # none of them, by NVIDIA's own words
        return []
    named = tuple(visible.split(","))
    if not all(each.startswith("GPU-") for each in named):
        raise EnvironmentFault(
            f"{VISIBLE}={visible!r} does not name its GPUs by UUID; start its node without it, or with UUIDs as "
            "`nvidia-smi -L` lists them"
        )
    return [uuid for uuid in known if uuid.startswith(named)]


def _cut(what: str, items: Sequence[T], index: int, count: int) -> Sequence[T]:
    """The share of part `index`, from 1. Raises EnvironmentFault where there are no equal ones."""
    size, rest = divmod(len(items), count)
    if rest or not size:
        has = f"{len(items)} {what}{'s'[: len(items) != 1]}"
        raise EnvironmentFault(f"its {has} cannot be split into {count} equal parts; give another --split, or none")
    return items[(index - 1) * size : index * size]
