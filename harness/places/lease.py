"""The share of a split machine that a part gets: of the CPU cores, whole and side by side, and of the GPUs, by UUID."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from harness.errors import EnvironmentFault
from harness.measure.machine.machine_class import PART
from harness.measure.machine.nvml import VISIBLE, Gpus

T = TypeVar("T")
CPUS = Path("/sys/devices/system/cpu")


def take(part: str) -> None:
    """From now on this process, and what it starts, has the cores and GPUs of part 'i/N' of its machine. Raises
    EnvironmentFault where N equal parts cannot be made of what it may use."""
    cpus, uuids = share(part)
    os.sched_setaffinity(0, cpus)
    os.environ[PART] = part
    if uuids:
        os.environ[VISIBLE] = ",".join(uuids)


def share(part: str, *, nvml: Any = pynvml, cpus: Path = CPUS) -> tuple[frozenset[int], Sequence[str]]:
    """The CPUs and the UUIDs of the GPUs of a part. Raises as `take`."""
    index, count = map(int, part.split("/"))
    cores = _cut("CPU core", physical_cores(os.sched_getaffinity(0), cpus), index, count)
    uuids = _uuids(nvml)
    return frozenset(cpu for core in cores for cpu in core), _cut("GPU", uuids, index, count) if uuids else uuids


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


def _uuids(nvml: Any) -> list[str]:
    """Those of the GPUs that this process may use."""
    visible = os.environ.get(VISIBLE)
    with Gpus(nvml) as gpus:  # all, or those that the variable names by UUID
        found = gpus.uuids
    if not found or (visible is not None and visible.strip() in ("", "-1")):  # '-1': none, by NVIDIA's own words
        return []
    if visible is not None and not all(each.startswith("GPU-") for each in visible.split(",")):
        raise EnvironmentFault(
            f"{VISIBLE}={visible!r} does not name its GPUs by UUID; start its node without it, or with UUIDs as "
            "`nvidia-smi -L` lists them"
        )
    known = [uuid for uuid in found if uuid is not None]
    if len(known) < len(found):
        raise EnvironmentFault("a GPU of it has no UUID, by which a part leases it; leave --split out")
    return known


def _cut(what: str, items: Sequence[T], index: int, count: int) -> Sequence[T]:
    """The share of part `index`, from 1. Raises EnvironmentFault where there are no equal ones."""
    size, rest = divmod(len(items), count)
    if rest or not size:
        has = f"{len(items)} {what}{'s'[: len(items) != 1]}"
        raise EnvironmentFault(f"its {has} cannot be split into {count} equal parts; give another --split, or none")
    return items[(index - 1) * size : index * size]
