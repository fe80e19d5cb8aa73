"""The survey of a cluster: its machines by class, the class that a search takes, and machines that do not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import EnvironmentFault, UsageError
from harness.measure.machine.machine_class import Machine
from harness.places.survey import chosen_class, survey
from tests.harness.places.in_memory_cluster import InMemoryCluster


def _machine(name: str, cores: int = 8) -> Machine:
    return Machine(machine_id=name, facts={"cores": cores, "memory_mib": 1024})


CLASS = _machine("").machine_class


def test_the_class_of_most_machines_is_taken_or_the_one_asked_for(tmp_path: Path) -> None:
    machines = {"n1": _machine("m1"), "n2": _machine("m2"), "n3": _machine("m3", cores=4)}
    found = survey(InMemoryCluster(tmp_path, machines), now=lambda: 0.0)
    assert chosen_class(found, None).machine.machine_class == CLASS
    small = _machine("", 4).machine_class
    assert chosen_class(found, small).machine.machine_id == "m3"
    with pytest.raises(UsageError, match=rf"no machine is of class H100; .*: {CLASS} \(2 of 3\), {small} \(1 of 3\)"):
        chosen_class(found, "H100")


def test_two_classes_of_equal_size_are_listed_with_what_differs(tmp_path: Path) -> None:
    machines = {"n1": _machine("m1"), "n2": _machine("m2", cores=4)}
    found = survey(InMemoryCluster(tmp_path, machines), now=lambda: 0.0)
    with pytest.raises(UsageError, match=r"no class has most of the machines; choose one .*cores 8 and 4"):
        chosen_class(found, None)


def test_a_silent_machine_is_listed_and_nothing_hangs(tmp_path: Path) -> None:
    cluster = InMemoryCluster(tmp_path, {"n1": _machine("m1"), "n2": _machine("m2")})
    cluster.silent = {"n2"}
    found = survey(cluster, timeout_s=60, now=lambda: cluster.now_s)
    assert [each.why for each in found] == ["", "no answer within 60 s"]
    cluster.silent = {"n1", "n2"}
    with pytest.raises(EnvironmentFault, match="no machine of the cluster answered: no answer within 60 s"):
        chosen_class(survey(cluster, timeout_s=60, now=lambda: cluster.now_s), None)


def test_a_cluster_without_machines_shows_how_a_node_gets_one(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"start each of Ray's with --resources '\{\"machine\": 1\}'"):
        survey(InMemoryCluster(tmp_path, {}))
