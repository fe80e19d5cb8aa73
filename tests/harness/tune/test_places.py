"""A search on many machines in memory: nothing is placed twice, nothing is lost, nobody is blamed for a machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from harness.records import NOT_MEASURED, Candidate
from harness.space.candidates import SpacePlan
from harness.tune import loop
from harness.tune.loop import search
from harness.tune.places import Done
from harness.tune.sampler import Proposals
from harness.tune.search_records import SearchResult
from tests.harness.tune.in_memory_places import InMemoryPlaces, Placement
from tests.harness.tune.landscape import Bench, NoStudy, memory_mib, plan, scenario, trial_of

SMALL = [
    {"engine": "ctranslate2", "workers": [1, 2, 4], "batch_size": [1, 2, 4, 8], "threads": [1, 2]},
    {"engine": "onnxruntime", "workers": [1, 2, 4], "batch_size": [1, 2, 4], "threads": [1, 2]},
]
"""42 candidates."""


@pytest.fixture(autouse=True)
def _without_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "StudyRecord", NoStudy)


def _places(bench: Bench, count: int, lost_frac: float = 0.0, seed: int = 0) -> InMemoryPlaces:
    return InMemoryPlaces(
        lambda candidate, number: trial_of(candidate, number, bench.scenario), bench.clock, count, lost_frac, seed
    )


def _search(bench: Bench, places: InMemoryPlaces) -> SearchResult:
    return search(replace(bench.context(), places=places))


def _double_placements(placements: list[Placement]) -> int:
    """Orders that began on a machine before the one before had ended there."""
    groups: dict[str, list[Placement]] = {}
    for each in placements:
        groups.setdefault(each.machine, []).append(each)
    return sum(second.begin_ns < first.end_ns for group in groups.values() for first, second in pairwise(group))


@pytest.mark.parametrize("placements", [1_000, pytest.param(10_000, marks=pytest.mark.heavy)])
def test_of_many_placements_none_is_double_and_no_candidate_is_proposed_twice(tmp_path: Path, placements: int) -> None:
    placed = 0
    for seed in range(1000):
        of = scenario({"sampler": "grid", "trials": 99, "seed": seed, "max_minutes": 1e5}, space=SMALL)
        bench = Bench(of, tmp_path / "study.db")
        places = _places(bench, count=2 + seed % 15, lost_frac=0.03, seed=seed)
        result = _search(bench, places)
        placed += len(places.placements)

        assert _double_placements(places.placements) == 0
        assert len({each.order.number for each in places.placements}) == len(places.placements)
        ended = Counter(t.candidate.candidate_id for t in result.trials if t.outcome not in NOT_MEASURED)
        assert set(ended.values()) == {1}, "measured twice"
        assert len(ended) == plan(of).size, "a candidate is missing"
        lost = Counter(t.candidate.candidate_id for t in result.trials if t.outcome == "machine_lost")
        begun = Counter(each.order.candidate.candidate_id for each in places.placements)
        assert all(begun[name] <= 1 + lost[name] for name in begun), "proposed twice without a loss"
        blamed = {t.candidate.candidate_id for t in result.trials if t.outcome == "crashed"}
        assert blamed <= set(lost), "a candidate is blamed that lost no machine before"
        if placed >= placements:
            break
    assert placed >= placements


@pytest.mark.parametrize("sampler", ["gp", "grid", "random", "tpe", "nsga2"])
def test_candidates_under_way_are_not_proposed_again(sampler: str) -> None:
    of = scenario({"sampler": sampler, "trials": 60})
    proposals, pending = Proposals(plan(of), of), list[Candidate]()
    for _ in range(16):
        candidate = proposals.next(pending)
        assert candidate is not None
        pending.append(candidate)
    assert len({each.candidate_id for each in pending}) == 16
    small = scenario({"sampler": sampler}, space=[{"engine": "onnxruntime", "workers": [1, 2]}])
    assert Proposals(plan(small), small).next(plan(small).candidates) is None


@pytest.mark.parametrize("count", [2, 8])
def test_machines_share_the_search_and_its_budget_counts_what_is_under_way(tmp_path: Path, count: int) -> None:
    of = scenario({"trials": 24})
    bench = Bench(of, tmp_path / "study.db")
    places = _places(bench, count)
    result = _search(bench, places)
    assert places.ended
    assert len(places.placements) == len(result.trials) <= 24
    assert {each.machine for each in places.placements} == {f"m{index}" for index in range(count)}
    most = max(
        sum(other.begin_ns <= each.begin_ns < other.end_ns for other in places.placements) for each in places.placements
    )
    assert most == count


class _Programmed(InMemoryPlaces):
    """Loses its machine at each order of one candidate."""

    cursed = ""

    def next_done(self) -> Done | None:
        done = super().next_done()
        if done is None or done.order.candidate.candidate_id != self.cursed:
            return done
        return Done(order=done.order, trial=None, lost="the node ended unexpectedly", machine=done.machine)


def test_a_candidate_that_takes_two_machines_with_it_crashed_and_is_not_tried_a_third_time(tmp_path: Path) -> None:
    of = scenario({"sampler": "grid", "trials": 12})
    bench = Bench(of, tmp_path / "study.db")
    places = _Programmed(lambda candidate, number: trial_of(candidate, number, of), bench.clock, 4)
    places.cursed = plan(of).blocks[0].default.candidate_id
    trials = [t for t in _search(bench, places).trials if t.candidate.candidate_id == places.cursed]
    assert [trial.outcome for trial in trials] == ["machine_lost", "crashed"]
    assert trials[0].machine != trials[1].machine
    assert trials[1].reason == (
        f"its machine was lost twice ({trials[0].machine}, {trials[1].machine}): the node ended unexpectedly"
    )


def test_a_late_answer_to_an_order_that_was_given_up_is_dropped_with_a_line(tmp_path: Path) -> None:
    of = scenario({"sampler": "grid", "trials": 40, "max_minutes": 1e5})
    bench = Bench(of, tmp_path / "study.db")
    places = _places(bench, count=4, lost_frac=0.2, seed=3)
    _search(bench, places)
    dropped = [event.text for event in bench.events if event.kind == "dropped"]
    assert 0 < len(dropped) <= places.answers_of_the_lost
    assert all(text.endswith("which was given up before, is dropped") for text in dropped)


def test_an_interruption_records_what_was_under_way_after_the_places_have_ended(tmp_path: Path) -> None:
    class Interrupted(InMemoryPlaces):
        def next_done(self) -> Done | None:
            if len(self.placements) > 6:
                raise KeyboardInterrupt
            return super().next_done()

    of = scenario({"sampler": "grid", "trials": 20})
    bench = Bench(of, tmp_path / "study.db")
    places = Interrupted(lambda candidate, number: trial_of(candidate, number, of), bench.clock, 3)
    result = _search(bench, places)
    assert (result.stop, places.ended) == ("interrupted", True)
    assert [trial.outcome for trial in result.trials[-3:]] == ["interrupted"] * 3
    assert len(result.trials) == len(places.placements)
    again = Bench(of, tmp_path / "study.db", done=result.trials)
    ids = [t.candidate.candidate_id for t in _search(again, _places(again, 3)).trials if t.outcome == "ok"]
    assert len(ids) == len(set(ids)) == 20


def test_what_a_smaller_machine_could_not_hold_rules_nothing_out(tmp_path: Path) -> None:
    of = scenario({"sampler": "grid", "trials": 99, "max_minutes": 1e5}, space=SMALL)
    bench = Bench(of, tmp_path / "study.db")
    places = _places(bench, count=2)
    places.memories_mib = {"m0": 1000.0, "m1": 9000.0}
    result = search(replace(bench.context(), places=places, memory_mib=9000.0))
    assert {each.machine for each in result.trials if each.outcome == "out_of_memory"} == {"m0"}
    assert not [each for each in result.trials if each.outcome == "skipped"]


def test_what_no_machine_there_can_hold_is_not_launched_and_the_reason_counts_it(tmp_path: Path) -> None:
    of = scenario({"sampler": "grid", "trials": 99, "max_minutes": 1e5}, space=SMALL)
    bench, whole = Bench(of, tmp_path / "study.db"), plan(of)
    places = _places(bench, count=1)
    places.memories_mib = {"m0": 1000.0}

    def plan_for(mib: float) -> SpacePlan:
        return replace(whole, candidates=tuple(each for each in whole.candidates if memory_mib(each) <= mib))

    result = search(replace(bench.context(), places=places, memory_mib=9000.0, plan_for=plan_for))
    fitting = plan_for(1000.0).candidates
    assert {trial.candidate.candidate_id for trial in result.trials} == {each.candidate_id for each in fitting}
    assert len(result.trials) == len(fitting) < whole.size
    assert result.stop_reason == (
        f"space exhausted: each of its {len(fitting)} candidates measured or skipped; "
        f"{whole.size - len(fitting)} others need more memory than any machine there has"
    )


@pytest.mark.parametrize("dtypes", [["fp32", "int8"], ["int8", "fp32"]])
def test_a_search_ends_when_what_the_machines_there_can_hold_should_gain_too_little(
    tmp_path: Path, dtypes: list[str]
) -> None:
    """Two workers are faster and fit nowhere; where fp32 comes first, onnxruntime's default fits nowhere either."""
    axes = {"dtype": dtypes, "workers": [1, 2], "batch_size": [1, 2, 4, 8], "max_batch_delay_ms": [0, 5]}
    space = [{"engine": engine, "threads": [1, 2], **axes} for engine in ("ctranslate2", "onnxruntime")]
    of = scenario({"sampler": "gp", "trials": 99, "max_minutes": 1e5}, space=space)
    bench, whole = Bench(of, tmp_path / "study.db"), plan(of)
    places = _places(bench, count=1)
    places.memories_mib = {"m0": 900.0}

    def plan_for(mib: float) -> SpacePlan:
        fitting = (each for each in whole.candidates if max(each.workers * 900.0, memory_mib(each)) <= mib)
        return replace(whole, candidates=tuple(fitting))

    result = search(replace(bench.context(), places=places, memory_mib=9000.0, plan_for=plan_for))
    assert result.stop == "converged"
    assert len(result.trials) < plan_for(900.0).size
