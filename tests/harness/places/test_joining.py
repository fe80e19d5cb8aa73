"""Which machines of a cluster may join a search, when they are asked, and when they are asked again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import EnvironmentFault
from harness.places.cluster_places import LOOK_S
from tests.harness.places.test_cluster_places import CLASS, ORDER, Bench, admitted, machine
from tests.harness.places.test_survey import Leaving


def test_a_node_whose_question_is_lost_is_asked_three_times_with_a_pause_between(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.cluster.dead = {"n1"}
    bench.places.admit()
    assert bench.places.machines == ("m2",)
    assert bench.notes[-1] == "left out: node n1: TaskUnschedulableError"
    assert 3 * 1 + 2 * LOOK_S <= bench.cluster.now_s <= 3 * 1 + 3 * LOOK_S, "a second for each answer"


def test_a_node_that_left_and_came_back_is_asked_to_join_again(tmp_path: Path) -> None:
    """Dask's worker that is started again has the address of the one before."""
    bench = admitted(tmp_path)
    bench.places.begin(replace(ORDER, avoid=frozenset({"m1"})))
    node = bench.cluster.machines.pop("n1")
    assert bench.places.next_done() is not None
    assert bench.places.machines == ("m2",)
    bench.cluster.machines["n1"] = node
    bench.places.begin(replace(ORDER, number=2))
    assert bench.places.next_done() is None, "a machine became free"
    assert set(bench.places.machines) == {"m1", "m2"}


@pytest.mark.parametrize("fate", ["lost", "the disk is full"])
def test_a_late_answer_of_before_a_node_left_gives_up_no_place_that_joined_anew(tmp_path: Path, fate: str) -> None:
    bench = admitted(tmp_path, fate)
    late_s = bench.cluster.now_s + 10
    bench.places.begin(replace(ORDER, avoid=frozenset({"m2"})))
    node = bench.cluster.machines.pop("n1")
    first = bench.places.next_done()
    assert first is not None
    assert first.lost == "its node left the cluster"
    bench.cluster.machines["n1"] = node
    while "m1" not in bench.places.machines:
        assert bench.places.next_done() is None
    bench.notes.clear()
    bench.places.begin(replace(ORDER, number=2, avoid=frozenset({"m1"})))
    while (done := bench.places.next_done()) is None:
        pass
    assert done.order.number == 2
    assert bench.cluster.now_s > late_s
    assert set(bench.places.machines) == {"m1", "m2"}
    assert not [note for note in bench.notes if "takes trials" in note or "left out" in note], "it is asked nothing"


def test_a_part_that_was_not_there_when_parts_were_checked_takes_no_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.asked = replace(bench.asked, only=frozenset({"m2"}))
    bench.at_most(99).admit()
    assert bench.places.machines == ("m2",)
    assert "m1: it was not there when the parts were compared with each other; the next search takes it" in str(
        bench.notes
    )


def test_a_machine_that_joins_later_takes_trials(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    bench.cluster.machines["n3"] = machine("m3")
    bench.places.begin(ORDER)
    assert bench.places.next_done() is None, "a machine became free"
    assert set(bench.places.machines) == {"m1", "m2", "m3"}


@pytest.mark.parametrize(
    ("part", "got", "sentence"),
    [
        ("code", "9" * 64, "code: expected 111111111111, got 999999999999"),
        ("weights", "", "weights: expected 222222222222, got none"),
        ("scenario", "f" * 10, "scenario: expected 0123456789, got ffffffffff"),
    ],
)
def test_a_machine_that_would_answer_another_question_is_left_out(
    tmp_path: Path, part: str, got: str, sentence: str
) -> None:
    bench = Bench(tmp_path)
    bench.cluster.proofs["n2"][part] = got
    bench.places.admit()
    assert bench.places.machines == ("m1",)
    assert bench.notes[-1] == (
        f"left out: machine m2: it would not answer the same question ({sentence}); `dyno machines --prepare` brings "
        "it to this machine's state"
    )


def test_another_commit_of_the_same_code_is_no_difference(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.cluster.proofs["n2"]["commit"] = ""
    bench.places.admit()
    assert len(bench.places.machines) == 2


def test_other_versions_of_an_engine_another_class_and_a_second_node_of_a_machine_are_left_out(tmp_path: Path) -> None:
    machines = {"n1": machine("m1"), "n2": machine("m2"), "n3": machine("m3", cores=4), "n4": machine("m1")}
    bench = Bench(tmp_path, machines=machines)
    bench.cluster.engines = {"n1": {"e torch": "2.13"}, "n2": {"e torch": "2.12"}, "n4": {"e torch": "2.13"}}
    bench.places.admit()
    assert bench.places.machines == ("m1",)
    reasons = " ".join(bench.notes)
    assert "machine m2: its engines are not those of the other machines (e torch: expected 2.13, got 2.12)" in reasons
    assert f"machine m3: it is of class {machine('', 4).machine_class}, the search runs in class {CLASS}" in reasons
    assert "machine m1: another node stands for it already" in reasons


def test_a_search_that_no_machine_can_run_states_each_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, machines={"n1": machine("m1"), "n2": machine("m2")})
    bench.cluster.proofs["n1"]["weights"] = ""
    bench.cluster.silent = {"n2"}
    with pytest.raises(
        EnvironmentFault, match=r"no machine of the cluster can run this search: machine m1: .*; node n2"
    ):
        bench.places.admit()
    assert [is_killed for _, is_killed in bench.cluster.cancelled] == [True]


@pytest.mark.parametrize("leaves_s", [1.0, 70.0])
def test_a_search_whose_machines_leave_while_they_join_waits_a_minute(tmp_path: Path, leaves_s: float) -> None:
    bench = Bench(tmp_path)
    bench.cluster = cluster = Leaving(tmp_path / "there", {"n1": machine("m1"), "n2": machine("m2")})
    cluster.leaves_s = leaves_s
    bench.at_most(99).admit()
    assert bench.places.machines == ("m2",)
    cluster.now_s, cluster.next_node = 0.0, None
    with pytest.raises(EnvironmentFault, match="can run this search: all left the cluster"):
        bench.at_most(99).admit()
    assert 58 <= cluster.now_s - leaves_s < 63
