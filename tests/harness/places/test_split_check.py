"""The check before a machine is split: planted slowdowns are found, and small ones let its parts be used."""

from __future__ import annotations

import math
import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import tune_places
from harness.cli.tune_places import check_goes_elsewhere, elsewhere
from harness.errors import EnvironmentFault, UsageError
from harness.measure.machine.machine_class import Machine
from harness.places.cluster import Refused, machine_of
from harness.places.requests import Measure
from harness.places.split_check import LIMIT_FRAC, ROUNDS, Verdict, check_split, slowdown
from harness.places.survey import survey
from harness.records import Candidate, Metric, TrialSummary
from harness.scenario.load import load_scenario
from harness.scenario.resolve import ResolvedScenario, resolve
from tests.harness.places.contract import a_measure
from tests.harness.places.in_memory_cluster import Answer, InMemoryCluster

P50 = "latency_p50_ms"
CHEAP = Candidate(block=0, engine="fake")


class Slowed(InMemoryCluster):
    """Machines that are slower by `slow_frac` while more than one part measures, with 0.2 % of noise a launch and a
    drift of 0.1 % a second; beside others the candidate ends with `fails`, a part begins as late as `late_s` states."""

    def __init__(self, folder: Path, slow_frac: float, names: tuple[str, ...] = ("m1",)) -> None:
        machines = {f"n-{name}": Machine(machine_id=name, facts={"cores": 8, "memory_mib": 1024}) for name in names}
        super().__init__(folder, machines)
        self.slow_frac, self.fails = slow_frac, ""
        self.late_s: dict[str, int] = {}
        self.asked = Counter[str]()
        self._random, self._together = random.Random(7), Counter[tuple[str, float]]()

    def _measured(self, node: str, measure: Measure) -> tuple[float, Answer]:
        self.measured.append((node, measure))
        machine, at = self.machine(node), (machine_of(node), self.now_s)
        self._together[at] += 1
        return 10.0, lambda: self._late(machine, measure, at)

    def _late(self, machine: Machine, measure: Measure, at: tuple[str, float]) -> bytes:
        is_beside = self._together[at] > 1
        self.asked[machine.machine_id] += 1
        if is_beside and self.fails:
            return self.archive(machine, measure, outcome="out_of_memory", reason=self.fails, summary=None)
        logs = self._random.gauss(0, 0.002) + 0.001 * at[1] + is_beside * math.log1p(self.slow_frac)
        metric = Metric(value=12.5 * math.exp(logs), unit="ms", estimator="p50", n=200)
        phase_s = {"launch": 30.0 + self.late_s.get(machine.machine_id, 0), "load": 20.0}
        begun = {"started_utc": "2026-01-01T00:00:00+00:00", "phase_s": phase_s}
        return self.archive(machine, measure, summary=TrialSummary(metrics={P50: metric}), **begun)


class Refusing(InMemoryCluster):
    """A machine that refuses every trial."""

    def _measured(self, node: str, measure: Measure) -> tuple[float, Answer]:
        return 1.0, Refused("the disk is full")


@pytest.fixture
def resolved(tmp_path: Path) -> ResolvedScenario:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nspace: [{engine: fake}]\n")
    return resolve(load_scenario(path), path)


def _as_parts(cluster: InMemoryCluster, count: int) -> InMemoryCluster:
    cluster.split = count
    return cluster


def _checked(cluster: InMemoryCluster, resolved: ResolvedScenario, count: int = 2) -> Verdict:
    (verdict,) = check_split(_as_parts(cluster, count), cluster.machines, a_measure(resolved), P50, 1000.0).values()
    return verdict


def test_of_parts_that_are_slowed_down_by_two_percent_one_in_twenty_passes() -> None:
    draws, passed = random.Random(1), 0
    for _ in range(4000):
        logs = [math.log1p(LIMIT_FRAC) + draws.gauss(0, 0.01) for _ in range(ROUNDS)]
        passed += slowdown(logs)[1] < LIMIT_FRAC
    assert 0.04 < passed / 4000 < 0.06


def test_rounds_without_noise_state_the_slowdown_itself() -> None:
    assert slowdown([math.log(1.03)] * ROUNDS) == (pytest.approx(0.03), pytest.approx(0.03))


@pytest.mark.parametrize(("slow_frac", "is_split"), [(0.0, True), (0.01, True), (0.05, False)])
def test_a_planted_slowdown_is_found(
    tmp_path: Path, resolved: ResolvedScenario, slow_frac: float, is_split: bool
) -> None:
    cluster = Slowed(tmp_path, slow_frac)
    verdict = _checked(cluster, resolved)
    assert verdict.is_split == is_split
    assert verdict.sentence.endswith("; less than 2% were needed") != is_split
    found = float(verdict.sentence.partition("slower by ")[2].partition("%")[0]) / 100
    assert abs(found - slow_frac) < 0.004
    assert len(cluster.measured) == 1 + ROUNDS * (2 * 1 + 2 * 2)


def test_each_round_that_begins_is_a_line_with_the_slowdown_so_far(tmp_path: Path, resolved: ResolvedScenario) -> None:
    cluster, lines = _as_parts(Slowed(tmp_path, 0.05), 2), list[str]()

    def note(machine: str, text: str) -> None:
        lines.append(f"{machine} {text}")

    check_split(cluster, frozenset({"n-m1"}), a_measure(resolved), P50, 1000.0, note)
    turns = "alone, twice beside the others, alone"
    begun = [f"n-m1 round {number} of {ROUNDS}: part {2 - number % 2}/2 {turns}" for number in range(1, ROUNDS + 1)]
    assert [line.partition("; ")[0] for line in lines] == begun
    so_far = [line.partition("slower by ")[2].partition("%")[0] for line in lines]
    assert so_far[0] == ""
    assert all(abs(float(each) - 5) < 0.5 for each in so_far[1:])


def test_every_launch_but_the_first_has_its_answers_judged_already(tmp_path: Path, resolved: ResolvedScenario) -> None:
    cluster = Slowed(tmp_path, 0.0)
    assert _checked(cluster, resolved, count=4).is_split
    assert [measure.judged is None for _, measure in cluster.measured] == [True] + [False] * 40


def test_every_part_is_looked_at_however_many_there_are(tmp_path: Path, resolved: ResolvedScenario) -> None:
    cluster = Slowed(tmp_path, 0.0)
    assert _checked(cluster, resolved, count=6).is_split
    assert len(cluster.asked) == 6
    beside, alone = 6 * 2, 2
    assert sorted(cluster.asked.values()) == [beside + alone] * 5 + [beside + alone + 1], "one more to begin with"


def test_a_candidate_that_fails_beside_others_splits_no_machine(tmp_path: Path, resolved: ResolvedScenario) -> None:
    cluster = Slowed(tmp_path, 0.0)
    cluster.fails = "killed"
    sentence = "with 2 of its parts at once the calibration candidate fails: killed"
    assert _checked(cluster, resolved) == Verdict(is_split=False, sentence=sentence)


def test_parts_that_measure_one_after_the_other_prove_nothing(tmp_path: Path, resolved: ResolvedScenario) -> None:
    cluster = Slowed(tmp_path, 0.0)
    cluster.late_s = {"m1.2of2": 3}
    assert _checked(cluster, resolved).is_split
    cluster.late_s = {"m1.2of2": 4}
    verdict = _checked(cluster, resolved)
    assert not verdict.is_split
    assert "the loads of its parts began 4 s apart, the shortest took 20 s" in verdict.sentence


def test_a_part_that_never_answers_or_refuses_is_one_sentence(tmp_path: Path, resolved: ResolvedScenario) -> None:
    cluster = Slowed(tmp_path, 0.0)
    cluster.silent = {"n-m1"}
    with pytest.raises(EnvironmentFault, match="no part answered within 1000 s"):
        _checked(cluster, resolved)
    with pytest.raises(EnvironmentFault, match="part n-m1#1/2 did not measure: the disk is full"):
        _checked(Refusing(tmp_path, cluster.machines), resolved)


def test_the_first_machine_that_cannot_be_split_ends_the_check(tmp_path: Path, resolved: ResolvedScenario) -> None:
    cluster = Slowed(tmp_path, 0.0, names=("m1", "m2"))
    cluster.split, cluster.late_s = 2, {"m1.2of2": 4}
    found = check_split(cluster, cluster.machines, a_measure(resolved), P50, 1000.0)
    assert list(found) == ["n-m1"]
    assert len(cluster.measured) == 2 * (1 + 1 + 2), "in the first launch side by side"


def test_the_parts_of_machines_are_nodes_of_one_class_that_whole_machines_are_not_of(tmp_path: Path) -> None:
    cluster = Slowed(tmp_path, 0.0, names=("m1", "m2"))
    cluster.split = 2
    machines = [each.described.machine for each in survey(cluster, now=lambda: 0.0) if each.described]
    assert [each.machine_id for each in machines] == ["m1.1of2", "m1.2of2", "m2.1of2", "m2.2of2"]
    assert len({each.machine_class for each in machines}) == 1
    assert machines[0].machine_class != cluster.machines["n-m1"].machine_class
    del cluster.machines["n-m1"]
    assert cluster.nodes() == {"n-m2#1/2", "n-m2#2/2"}, "all parts of a machine leave with it"


@pytest.mark.parametrize("is_split", [True, False])
def test_a_search_has_the_parts_or_the_whole_machines(
    tmp_path: Path, resolved: ResolvedScenario, monkeypatch: pytest.MonkeyPatch, is_split: bool
) -> None:
    cluster, notes = Slowed(tmp_path, 0.0 if is_split else 0.05, names=("m1", "m2")), list[str]()
    monkeypatch.setattr(tune_places, "open_cluster", lambda address, split: _as_parts(cluster, split))
    with elsewhere("ray://head:1", None, None, split=2) as there:
        assert there is not None
        checked = there.checked(resolved, CHEAP, notes.append)
    parts = {"m1.1of2": "n-m1#1/2", "m1.2of2": "n-m1#2/2", "m2.1of2": "n-m2#1/2", "m2.2of2": "n-m2#2/2"}
    assert checked.nodes == (parts if is_split else {"m1": "n-m1", "m2": "n-m2"})
    assert checked.cluster.nodes() == {*checked.nodes.values()}
    assert (checked.is_unchecked, checked.machine.machine_id) == (False, "m1.1of2" if is_split else "m1")
    assert str(checked.machine.facts["split_check"]) in "; ".join(notes)
    assert (checked.machine.machine_class == there.machine.machine_class) == is_split
    assert ("every machine is taken whole" in notes) != is_split
    assert sum(each.startswith("machine m2: round ") for each in notes) == ROUNDS


def test_the_check_of_parts_takes_the_machines_that_are_there_when_it_begins(
    tmp_path: Path, resolved: ResolvedScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Slowed(tmp_path, 0.0, names=("m1",))
    monkeypatch.setattr(tune_places, "open_cluster", lambda address, split: _as_parts(cluster, split))
    with elsewhere("ray://head:1", None, None, split=2) as there:
        assert there is not None
        cluster.machines["n-m2"] = replace(cluster.machines.pop("n-m1"), machine_id="m2")
        checked = there.checked(resolved, CHEAP, lambda note: None)
    assert (checked.machine.machine_id, checked.nodes) == ("m2.1of2", {"m2.1of2": "n-m2#1/2", "m2.2of2": "n-m2#2/2"})


class Away(Slowed):
    """Its machines are away for 30 s after the check of their parts."""

    back_s = math.inf

    def nodes(self) -> frozenset[str]:
        if self.split == 1 and self.back_s == math.inf:
            self.back_s = self.now_s + 30
        return super().nodes() if self.split > 1 or self.now_s >= self.back_s else frozenset()


def test_machines_that_are_away_when_they_are_taken_whole_are_waited_for(
    tmp_path: Path, resolved: ResolvedScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Away(tmp_path, 0.05)
    monkeypatch.setattr(tune_places, "open_cluster", lambda address, split: _as_parts(cluster, split))
    with elsewhere("ray://head:1", None, None, split=2) as there:
        assert there is not None
        assert there.checked(resolved, CHEAP, lambda note: None).nodes == {"m1": "n-m1"}
    assert cluster.now_s >= cluster.back_s


def test_split_is_for_machines_of_a_cluster_and_not_for_containers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--split is for --places"), elsewhere(None, None, None, split=2):
        pass
    path = tmp_path / "d.yaml"
    path.write_text("name: s\nmodel: {path: m}\nspace: [{engine: vllm, options: {image: 'vllm/vllm-openai:v1'}}]\n")
    (tmp_path / "m").mkdir()
    in_docker = resolve(load_scenario(path), path)
    check_goes_elsewhere(in_docker, "ray://head:1", others={})
    with pytest.raises(UsageError, match="--split and option image of vllm are not combined"):
        check_goes_elsewhere(in_docker, "ray://head:1", others={}, is_split=True)
    for numa, is_refused in (("none", False), ("distribute", True)):
        block = f"{{engine: llamacpp, options: {{numa: {numa}}}}}"
        path.write_text(f"name: s\nmodel: {{path: m}}\nspace: [{block}]\n")
        refusal = pytest.raises(UsageError, match="--split and option numa of llamacpp are not") if is_refused else None
        with refusal or nullcontext():
            check_goes_elsewhere(resolve(load_scenario(path), path), "ray://head:1", others={}, is_split=True)
