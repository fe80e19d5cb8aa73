"""Places of a cluster: who may join, one trial at a time each, losses handed on once, late answers dropped."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.clock import FakeClock
from harness.errors import EnvironmentFault
from harness.measure.machine.calibration import Calibration, MachineOfRun
from harness.measure.machine.machine_class import Machine
from harness.places.calibrator import CalibrationTerms
from harness.places.cluster_places import Asked, FarPlaces
from harness.places.requests import Question
from harness.records import Candidate
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.space.candidates import SpacePlan, plan_space
from harness.store.codec import to_json
from harness.store.disk import write_bytes
from harness.store.formats import RunManifest
from harness.store.layout import RunLayout
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from harness.trial.reference import Reference
from harness.tune.loop import search
from harness.tune.places import Order
from harness.tune.search_records import SearchContext, SearchEvent, SearchResult
from tests.harness.places.contract import a_measure, keeps_the_contract, some_terms
from tests.harness.places.in_memory_cluster import PROOF, InMemoryCluster
from tests.harness.tune.landscape import able

ORDER = Order(number=1, candidate=Candidate(block=0, engine="fake"))


def machine(name: str, cores: int = 8) -> Machine:
    return Machine(machine_id=name, facts={"cores": cores, "memory_mib": 1024})


CLASS = machine("").machine_class


class Bench:
    """Places of a cluster in memory, and what they noted."""

    def __init__(self, folder: Path, fates: tuple[str, ...] = (), machines: dict[str, Machine] | None = None) -> None:
        folder.joinpath("s.yaml").write_text(
            "name: s\nspace: [{engine: fake, batch_size: [1, 2, 3, 4, 5, 6]}]\nsearch: {sampler: grid}\n"
        )
        self.resolved = resolve(load_scenario(folder / "s.yaml"), folder / "s.yaml")
        machines = machines or {"n1": machine("m1"), "n2": machine("m2")}
        self.cluster = InMemoryCluster(folder / "there", machines, fates)
        self.layout = RunLayout(folder / "run")
        self.notes: list[str] = []
        self.launches: list[Calibration] = []
        self.known: tuple[MachineOfRun, ...] = ()
        self.asked = Asked(
            question=Question.of(self.resolved),
            proof=PROOF,
            machine_class=CLASS,
            reference=Reference(answers={}, source="none"),
            left_s=lambda: math.inf,
            calibration=CalibrationTerms(
                candidate=ORDER.candidate,
                metric="latency_p50_ms",
                keep=self.launches.append,
                publish=self._publish,
                note=self.notes.append,
                machines=self.known,
            ),
        )
        self.places = self._places()

    def _places(self, most: int = 99) -> FarPlaces:
        return FarPlaces(
            self.cluster, self.asked, self.layout, most=most, note=self.notes.append, now=lambda: self.cluster.now_s
        )

    def _publish(self, machines: tuple[MachineOfRun, ...]) -> None:
        self.known = machines

    def calibrate(self) -> None:
        """Launch what machines are compared by, and forget it."""
        self.places.check_machines()
        self.cluster.measured.clear()
        shutil.rmtree(self.layout.root)

    def at_most(self, most: int) -> FarPlaces:
        self.places = self._places(most)
        return self.places


def admitted(folder: Path, *fates: str) -> Bench:
    bench = Bench(folder, fates)
    bench.places.admit()
    bench.calibrate()
    return bench


def test_a_trial_comes_back_with_its_files_already_in_place(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    bench.places.begin(ORDER)
    done = bench.places.next_done()
    assert done is not None
    assert done.trial is not None
    assert done.trial.machine == done.machine
    assert bench.layout.outputs(done.trial.trial_id).read_text() == "{}\n"


def test_each_machine_has_one_trial_at_a_time_and_an_order_too_many_waits(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    for number in (1, 2):
        assert bench.places.is_free()
        bench.places.begin(Order(number=number, candidate=ORDER.candidate))
    assert not bench.places.is_free()
    bench.places.begin(Order(number=3, candidate=ORDER.candidate))
    assert sorted(node for node, _ in bench.cluster.measured) == ["n1", "n2"]
    ended = [bench.places.next_done() for _ in range(3)]
    assert {each.order.number for each in ended if each and each.trial} == {1, 2, 3}
    assert len({measure.token for _, measure in bench.cluster.measured}) == 3


def test_a_machine_to_be_avoided_is_taken_only_where_there_is_no_other(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    avoid = frozenset({"m1"})
    bench.places.begin(Order(number=1, candidate=ORDER.candidate, avoid=avoid))
    assert bench.cluster.measured[0][0] == "n2"
    assert not bench.places.is_free(avoid)
    bench.places.begin(Order(number=2, candidate=ORDER.candidate, avoid=avoid))
    assert bench.cluster.measured[1][0] == "n1"


def test_an_order_waits_for_a_machine_that_can_hold_it_while_there_is_one(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    bench.places.begin(Order(number=1, candidate=ORDER.candidate, avoid=frozenset({"m1"})))
    bench.places.begin(Order(number=2, candidate=ORDER.candidate, too_small=frozenset({"m1"})))
    assert [node for node, _ in bench.cluster.measured] == ["n2"]
    ended = [bench.places.next_done() for _ in range(2)]
    assert [(each.order.number, each.machine) for each in ended if each] == [(1, "m2"), (2, "m2")]
    bench.places.begin(Order(number=3, candidate=ORDER.candidate, avoid=frozenset({"m1"})))
    bench.places.begin(Order(number=4, candidate=ORDER.candidate, too_small=frozenset({"m1", "m2"})))
    assert [node for node, _ in bench.cluster.measured] == ["n2", "n2", "n2", "n1"], "there is none that can"


def test_a_trial_is_raced_on_what_its_own_machine_measured_and_a_finalist_on_nothing(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    for machine in ("m1", "m2"):
        write_bytes(bench.layout.requests(f"best-of-{machine}"), machine.encode())
    for number in (1, 2):
        bench.places.begin(replace(ORDER, number=number, terms_on=some_terms))
    for node, measure in bench.cluster.measured:
        machine = bench.cluster.machines[node].machine_id
        assert measure.terms == some_terms(machine)
        assert base64.b64decode(measure.raced).decode() == machine
    assert len(bench.cluster.measured) == 2
    while bench.places.next_done() is None:
        pass
    bench.places.begin(replace(ORDER, number=3, repetition=1, terms_on=some_terms))
    assert (bench.cluster.measured[-1][1].terms, bench.cluster.measured[-1][1].raced) == (None, "")


def test_the_finalists_are_measured_in_a_block_of_one_machine(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    for number in range(6):
        bench.places.begin(Order(number=number, candidate=ORDER.candidate, repetition=1 + number // 2))
        assert bench.places.next_done() is not None
    assert len({node for node, _ in bench.cluster.measured}) == 1


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        ("lost", "WorkerCrashedError: the worker died unexpectedly"),
        ("damaged", "SHA-256"),
        ("no space left on the disk", "no space left on the disk"),
    ],
)
def test_an_attempt_without_an_answer_is_lost_with_the_reason(tmp_path: Path, fate: str, why: str) -> None:
    bench = admitted(tmp_path, fate)
    bench.places.begin(ORDER)
    done = bench.places.next_done()
    assert done is not None
    assert done.trial is None
    assert why in done.lost
    assert not list(bench.layout.root.rglob("*"))


def test_a_machine_that_refused_a_trial_gets_no_other(tmp_path: Path) -> None:
    bench = admitted(tmp_path, "no space left on the disk")
    bench.places.begin(ORDER)
    done = bench.places.next_done()
    assert done is not None
    assert done.machine not in bench.places.machines
    assert bench.notes[-1] == f"left out: machine {done.machine}: no space left on the disk"


def test_a_machine_that_lost_a_trial_proves_itself_again_before_it_gets_another(tmp_path: Path) -> None:
    bench = admitted(tmp_path, "lost")
    bench.places.begin(ORDER)
    done = bench.places.next_done()
    assert done is not None
    assert done.machine not in bench.places.machines
    bench.places.begin(Order(number=2, candidate=ORDER.candidate))
    assert bench.places.next_done() is None, "a machine became free"
    assert set(bench.places.machines) == {"m1", "m2"}


def test_a_node_that_is_dead_before_the_cluster_lists_it_so_loses_one_trial(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    bench.cluster.dead = {"n1"}
    for number in range(1, 5):
        bench.places.begin(Order(number=number, candidate=ORDER.candidate))
    ended = [done for _ in range(4) if (done := bench.places.next_done()) is not None]
    assert [done.lost for done in ended if done.trial is None] == ["TaskUnschedulableError"]
    assert len(ended) == 4
    assert bench.notes[-1] == "left out: node n1: TaskUnschedulableError"


def test_a_node_that_leaves_loses_its_trial_at_once_and_its_late_answer_has_no_trial(tmp_path: Path) -> None:
    bench = admitted(tmp_path, "late")
    begun_s = bench.cluster.now_s
    bench.places.begin(ORDER)
    first = bench.places.next_done()
    assert first is not None
    assert (first.trial, first.lost) == (None, "its node left the cluster")
    assert bench.cluster.now_s < begun_s + 10, "before the answer"
    late = bench.places.next_done()
    assert late is not None
    assert late.trial is None
    assert not list(bench.layout.root.rglob("*")), "the files of a lost attempt"


def test_a_search_without_any_machine_ends_in_a_sentence_after_a_minute(tmp_path: Path) -> None:
    bench = admitted(tmp_path, "node", "node")
    bench.places.begin(ORDER)
    bench.places.begin(Order(number=2, candidate=ORDER.candidate))
    assert {bench.places.next_done() is None, bench.places.next_done() is None} == {False}
    bench.places.begin(Order(number=3, candidate=ORDER.candidate))
    before_s = bench.cluster.now_s
    with pytest.raises(EnvironmentFault, match="no machine is left: all left the cluster; start some and run the"):
        bench.places.next_done()
    assert 60 < bench.cluster.now_s - before_s < 90


def test_the_end_interrupts_everything_and_kills_what_does_not_stop(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    bench.places.begin(ORDER)
    bench.places.end()
    assert [is_killed for _, is_killed in bench.cluster.cancelled] == [False]


def test_a_written_file_is_measured_on_the_finalists_machine_with_what_is_beside_it(tmp_path: Path) -> None:
    bench = admitted(tmp_path)
    bench.places.begin(Order(number=1, candidate=ORDER.candidate, avoid=frozenset({"m1"}), repetition=1))
    bench.places.next_done()
    bench.places.end()
    (tmp_path / "written" / "model").mkdir(parents=True)
    for name, size in {"serving.properties": 10, "recommendation.json": 20, "weights.bin": 2 << 20}.items():
        (tmp_path / "written" / name).write_bytes(bytes(size))
    trial = bench.places.run_file(tmp_path / "written" / "serving.properties", ORDER.candidate, 9)
    node, measure = bench.cluster.measured[-1]
    assert (node, trial.number, trial.repetition) == ("n2", 9, 0)
    assert (measure.started, set(measure.written)) == (
        "serving.properties",
        {"serving.properties", "recommendation.json"},
    )
    bench.cluster.machines.clear()
    with pytest.raises(EnvironmentFault, match="not verified, no machine is left"):
        bench.places.run_file(tmp_path / "written" / "serving.properties", ORDER.candidate, 10)


def test_machines_beyond_the_largest_number_stand_in_for_one_that_leaves(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fates=("node",))
    bench.at_most(1).admit()
    assert bench.places.machines == ("m1",)
    bench.places.begin(ORDER)
    done = bench.places.next_done()
    assert done is not None
    assert done.trial is None
    assert bench.places.machines == ("m2",)


def _search(bench: Bench, folder: Path, **about: Any) -> SearchResult:
    manifest = RunManifest(scenario={"name": "s"}, digest="0", machine=machine("").facts)
    with RunWriter.create(folder, manifest) as writer:
        bench.layout = writer.layout
        bench.places = bench._places()
        bench.places.admit()
        context = SearchContext(
            scenario=bench.resolved.scenario,
            plan=plan_space(bench.resolved, able),
            study_path=writer.layout.study_db,
            places=bench.places,
            record_trial=writer.append_trial,
            clock=FakeClock(),
        )
        result = search(replace(context, **about))
        for trial in read_run(writer.layout.root).trials:
            assert writer.layout.outputs(trial.trial_id).exists() == (trial.outcome == "ok")
    return result


def test_a_search_over_losses_measures_each_candidate_once_and_every_line_has_its_files(tmp_path: Path) -> None:
    machines = {f"n{index}": machine(f"m{index}") for index in range(5)}
    bench = Bench(tmp_path, ("", "lost", "late", "damaged"), machines)
    trials = _search(bench, tmp_path / "results").trials
    measured = [trial.candidate.candidate_id for trial in trials if trial.outcome == "ok" and not trial.repetition]
    assert len(measured) == len(set(measured)) == 6
    assert sum(trial.outcome == "machine_lost" for trial in trials) == 3


def test_what_only_a_machine_that_joins_later_can_hold_comes_back_and_runs_there(tmp_path: Path) -> None:
    """A candidate needs 512 MiB for each row of its batch, m1 has 1,024, and m2 has 3,072."""
    bench = Bench(tmp_path, machines={"n1": machine("m1")})
    whole, events = plan_space(bench.resolved, able), list[SearchEvent]()

    def plan_for(mib: float) -> SpacePlan:
        kept = tuple(each for each in whole.candidates if 512 * each.batch_size <= mib)
        return replace(whole, blocks=(replace(whole.blocks[0], candidates=kept),), candidates=kept)

    def on_event(event: SearchEvent) -> None:
        events.append(event)
        if event.kind == "finished":
            bench.cluster.machines["n2"] = Machine(machine_id="m2", facts={"cores": 8, "memory_mib": 3072})

    small = {"plan": plan_for(1024.0), "memory_mib": 1024.0}
    result = _search(bench, tmp_path / "results", **small, plan_for=plan_for, on_event=on_event)
    measured = [trial for trial in result.trials if trial.outcome == "ok" and not trial.repetition]
    assert sorted(trial.candidate.batch_size for trial in measured) == [1, 2, 3, 4, 5, 6]
    assert {trial.machine for trial in measured if trial.candidate.batch_size > 2} == {"m2"}
    assert {trial.machine for trial in result.trials if trial.repetition} == {"m2"}, "which can hold each finalist"
    (text,) = [event.text for event in events if event.kind == "widened"]
    assert text == "candidates that needed more memory come back: 4, by machine m2 with 3,072 MiB"


def test_a_block_of_finalists_whose_machine_leaves_is_void_and_begun_again_on_another(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ("",) * 7 + ("node",))
    result = _search(bench, tmp_path / "results")
    (root,) = (tmp_path / "results" / "s").iterdir()
    again = [trial for trial in read_run(root).trials if trial.repetition]
    counted = [trial for trial in again if not trial.unranked]
    assert len({trial.machine for trial in counted}) == 1
    confirm = bench.resolved.scenario.search.confirm
    assert Counter(trial.candidate.candidate_id for trial in counted) == dict.fromkeys(
        {trial.candidate.candidate_id for trial in counted}, confirm.repetitions
    )
    (void,) = [trial for trial in again if trial.unranked and trial.outcome == "ok"]
    assert void.unranked == f"the finalists were begun again on machine {counted[0].machine}, a block is of one machine"
    assert len(result.trials) == 6 + 2 + confirm.finalists * confirm.repetitions


def test_the_cluster_in_memory_keeps_the_contract_of_the_real_ones(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ("no space left on the disk", "lost"))
    measure = ("measure", json.dumps(to_json(a_measure(bench.resolved))))
    keeps_the_contract(bench.cluster, refused=measure, lost=measure, long=measure)
