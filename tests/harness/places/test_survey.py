"""The survey of a cluster: its machines by class, the class that a search takes, and machines that do not answer."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest

from engines.api import Availability
from harness.cli.tune_places import Elsewhere
from harness.errors import EnvironmentFault, UsageError
from harness.measure.machine.machine_class import Machine
from harness.places.cluster import Lost, Task
from harness.places.requests import Verb
from harness.places.survey import LOOK_S, chosen_class, survey
from harness.store.codec import to_json
from tests.harness.places.in_memory_cluster import Answer, InMemoryCluster


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


class Leaving(InMemoryCluster):
    """Its only node leaves at `leaves_s` while it is asked; `next_node` joins 29 s later, unless it is None."""

    leaves_s = 1.0
    next_node: str | None = "n2"

    def nodes(self) -> frozenset[str]:
        if self.now_s < self.leaves_s:
            return frozenset(["n1"])
        return frozenset([self.next_node] if self.next_node and self.now_s >= self.leaves_s + 29 else [])

    def _answer(self, node: str, verb: Verb, request: str) -> tuple[float, Answer]:
        if node == "n1":
            return self.leaves_s - self.now_s, Lost("TaskUnschedulableError")
        if verb != "capabilities":
            return super()._answer(node, verb, request)
        not_there = Availability(is_available=False, reason=f"asked {node}")
        return 1.0, json.dumps({"not": to_json(not_there)}).encode()


def test_a_machine_that_joins_after_all_others_left_is_waited_for(tmp_path: Path) -> None:
    cluster = Leaving(tmp_path, {"n1": _machine("m1"), "n2": _machine("m2")})
    found = survey(cluster, timeout_s=60, now=lambda: cluster.now_s)
    assert [(each.node, each.why) for each in found] == [("n1", "TaskUnschedulableError"), ("n2", "")]
    assert 30 <= cluster.now_s < 34
    cluster = Leaving(tmp_path, {"n1": _machine("m1")})
    cluster.next_node = None
    with pytest.raises(EnvironmentFault, match="no machine of the cluster answered: TaskUnschedulableError"):
        chosen_class(survey(cluster, timeout_s=60, now=lambda: cluster.now_s), None)
    assert 60 <= cluster.now_s < 63


def test_a_cluster_that_had_machines_is_waited_for_while_it_has_none(tmp_path: Path) -> None:
    cluster = Leaving(tmp_path, {"n1": _machine("m1"), "n2": _machine("m2")})
    cluster.now_s = 2.0
    assert [each.node for each in survey(cluster, now=lambda: cluster.now_s, waits=True)] == ["n2"]


def test_what_an_engine_can_do_is_asked_of_another_machine_where_the_first_is_lost(tmp_path: Path) -> None:
    cluster = Leaving(tmp_path, {"n1": _machine("m1"), "n2": _machine("m2")})
    there = Elsewhere(cluster=cluster, machine=_machine("m1"), nodes={"m1": "n1"}, memories_mib={1024.0})
    assert there.capabilities("fake") == Availability(is_available=False, reason="asked n2")


def test_a_machine_that_cannot_answer_and_stays_is_asked_three_times(tmp_path: Path) -> None:
    cluster = InMemoryCluster(tmp_path, {"n1": _machine("m1")})
    cluster.dead = {"n1"}
    assert [each.why for each in survey(cluster, now=lambda: cluster.now_s)] == ["TaskUnschedulableError"]
    assert cluster.now_s == 3 * 1 + 2 * LOOK_S


class Late(InMemoryCluster):
    """Questions to n1 are lost at once; it is listed for `looks` more, then `follower` is there, which answers."""

    looks, follower = 3, "n2"

    def nodes(self) -> frozenset[str]:
        return frozenset(["n1" if self.looks >= 0 else self.follower])

    def ask(self, node: str, verb: Verb, request: str) -> Task:
        self.dead = {"n1"} if self.looks >= 0 else set()
        return super().ask(node, verb, request)

    def wait(self, tasks: Collection[Task], timeout_s: float) -> Task | None:
        self.looks -= 1
        return super().wait(tasks, timeout_s)


@pytest.mark.parametrize("follower", ["n1", "n2"])
def test_a_machine_is_lost_before_the_cluster_drops_it_and_the_next_is_asked(tmp_path: Path, follower: str) -> None:
    """Dask's worker that is started again has the same address: it is the next, by the same name."""
    cluster = Late(tmp_path, {"n1": _machine("m1"), "n2": _machine("m2")})
    cluster.follower = follower
    found = survey(cluster, now=lambda: cluster.now_s)
    assert chosen_class(found, None).machine.machine_id == cluster.machines[follower].machine_id
