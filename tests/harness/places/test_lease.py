"""What the parts of a machine get: every core and GPU in one part, whole physical cores, or a sentence why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import EnvironmentFault
from harness.measure.machine.machine_class import PART
from harness.measure.machine.nvml import VISIBLE, Gpus
from harness.places.lease import physical_cores, share, take
from tests.harness.measure.machine.test_nvml import Nvml

UUIDS = ("GPU-0", "GPU-1", "GPU-2", "GPU-3")


def _topology(root: Path, siblings: dict[int, str], packages: dict[int, int]) -> Path:
    for cpu, text in siblings.items():
        folder = root / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")
        (folder / "physical_package_id").write_text(f"{packages[cpu]}\n")
    return root


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv(VISIBLE, raising=False)


def test_the_threads_of_a_core_stay_together_and_so_do_the_cores_of_a_package(tmp_path: Path) -> None:
    """Two packages of two cores with two threads, numbered as machines do: first threads first, packages in turn."""
    siblings = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    root = _topology(tmp_path, siblings, {cpu: cpu % 2 for cpu in range(8)})
    assert physical_cores(range(8), root) == [(0, 4), (2, 6), (1, 5), (3, 7)]
    assert physical_cores({2, 6, 3}, root) == [(2, 6), (3,)], "of the CPUs that may be used"
    assert physical_cores({1, 0}, tmp_path / "nothing") == [(0,), (1,)]


@pytest.mark.usefixtures("eight_cpus")
def test_parts_share_every_core_and_gpu_and_none_has_two_parts(tmp_path: Path) -> None:
    parts = [share(f"{index}/2", nvml=Nvml(count=4, uuids=UUIDS), cpus=tmp_path) for index in (1, 2)]
    assert parts == [({0, 1, 2, 3}, ["GPU-0", "GPU-1"]), ({4, 5, 6, 7}, ["GPU-2", "GPU-3"])]
    assert share("3/4", nvml=Nvml(count=4, uuids=UUIDS), cpus=tmp_path)[1] == ["GPU-2"]
    assert share("2/4", nvml=Nvml(count=0), cpus=tmp_path) == ({2, 3}, [])


@pytest.mark.usefixtures("eight_cpus")
def test_gpus_that_the_node_was_not_started_with_are_not_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for visible, leased in (("GPU-1,GPU-3", ["GPU-3"]), ("", []), ("-1", [])):
        monkeypatch.setenv(VISIBLE, visible)
        assert share("2/2", nvml=Nvml(count=4, uuids=UUIDS), cpus=tmp_path)[1] == leased


@pytest.mark.usefixtures("eight_cpus")
def test_a_process_that_takes_a_part_has_its_cores_and_names_it_to_what_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[object] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: taken.append((pid, cpus)))
    monkeypatch.setattr("harness.places.lease.share", lambda part: (frozenset({4, 5}), ["GPU-2", "GPU-3"]))
    for name in (PART, VISIBLE):
        monkeypatch.setenv(name, "")
    take("2/2")
    assert (taken, os.environ[PART], os.environ[VISIBLE]) == ([(0, {4, 5})], "2/2", "GPU-2,GPU-3")


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("part", "visible", "uuids", "why"),
    [
        ("1/3", None, UUIDS, "its 8 CPU cores cannot be split into 3 equal parts; give another --split, or none"),
        ("1/16", None, UUIDS, "its 8 CPU cores cannot be split into 16 equal parts"),
        ("1/8", None, UUIDS, "its 4 GPUs cannot be split into 8 equal parts"),
        ("1/2", "GPU-2", UUIDS, "its 1 GPU cannot be split into 2 equal parts"),
        ("1/2", "0,1", UUIDS, "CUDA_VISIBLE_DEVICES='0,1' does not name its GPUs by UUID"),
        ("1/2", None, ("GPU-0", None, "GPU-2", "GPU-3"), "a GPU of it has no UUID, by which a part leases it"),
    ],
)
def test_a_machine_that_cannot_be_split_so_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    visible: str | None,
    uuids: tuple[str | None, ...],
    why: str,
) -> None:
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    with pytest.raises(EnvironmentFault, match=why):
        share(part, nvml=Nvml(count=4, uuids=uuids), cpus=tmp_path)


def test_only_gpus_that_are_named_by_uuid_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, seen in (("GPU-1,GPU-2", ("GPU-1", "GPU-2")), ("0,1", UUIDS), ("", UUIDS)):
        monkeypatch.setenv(VISIBLE, visible)
        with Gpus(Nvml(count=4, uuids=UUIDS)) as gpus:
            assert gpus.uuids == seen
            assert len(gpus.names) == len(seen)
