"""What every cluster must do, whichever engine is behind it: `python -m tests.harness.places.contract ADDRESS FILE`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.places.cluster import Cluster, Lost, Refused
from harness.places.lease import physical_cores
from harness.places.open_cluster import open_cluster
from harness.places.requests import Described, Measure, Question, Verb
from harness.records import Candidate
from harness.scenario.load import load_scenario
from harness.scenario.resolve import ResolvedScenario, resolve
from harness.store.codec import from_json, to_json
from harness.trial.reference import Reference
from harness.tune.racing import Terms

Asked = tuple[Verb, str]


def a_measure(resolved: ResolvedScenario) -> Measure:
    """An order for a trial of the fake engine."""
    return Measure(
        token="fence",
        question=Question.of(resolved),
        reference=Reference(answers={}, source="none"),
        number=1,
        candidate=Candidate(block=0, engine="fake", options={"service_ms": 5}),
        left_s=1000.0,
    )


def some_terms(machine: str = "m1") -> Terms:
    """A race against the best trial of a machine."""
    return Terms(
        against=f"best-of-{machine}",
        metric="latency_p50_ms",
        against_value=6.0,
        margin_frac=0.5,
        margin_why="two launches",
        checks=(20, 40),
        level=0.01,
        round_requests=1,
    )


def keeps_the_contract(cluster: Cluster, *, refused: Asked, lost: Asked, long: Asked) -> None:
    """Asks each of two nodes who it is, one question that it refuses, one whose process fails; one is interrupted,
    and one killed beside another on the same machine."""
    nodes = sorted(cluster.nodes())
    assert len(nodes) == 2
    assert cluster.wait([], 0.1) is None
    asked = {cluster.ask(node, "describe", "null"): node for node in nodes}
    seen = set()
    while asked:
        task = cluster.wait(list(asked), 100)
        assert task is not None
        del asked[task]
        seen.add(from_json(Described, json.loads(cluster.answer(task))).machine.machine_id)
    assert len(seen) == 2, "one answer from each machine"
    cluster.split = 2
    assert cluster.nodes() == {f"{node}#{part}" for node in nodes for part in ("1/2", "2/2")}
    cluster.split = 1
    task = cluster.ask(f"{nodes[0]}#1/1", "describe", "null")
    assert cluster.wait([task], 100) == task
    part = from_json(Described, json.loads(cluster.answer(task))).machine
    assert part.machine_id.removesuffix(".1of1") in seen
    assert part.facts["split_into"] == 1
    for (verb, request), kind in ((refused, Refused), (lost, Lost)):
        task = cluster.ask(nodes[0], verb, request)
        assert cluster.wait([task], 100) == task
        with pytest.raises(kind, match=r"\w"):
            cluster.answer(task)
    task = cluster.ask(nodes[1], *long)
    assert cluster.wait([task], 2) is None
    cluster.cancel(task)
    assert cluster.wait([task], 100) == task, "an interrupted question ends"
    with pytest.raises((Lost, Refused)):
        cluster.answer(task)
    _kills_one_of_two_parts(cluster, nodes[1], long)
    assert sorted(cluster.nodes()) == nodes, "no node is lost by it"


def _kills_one_of_two_parts(cluster: Cluster, node: str, long: Asked) -> None:
    """The real nodes run here, so that there are as many parts as physical cores; of one core there is one part."""
    count = len(physical_cores(os.sched_getaffinity(0)))
    if count == 1:
        return
    one, other = (cluster.ask(f"{node}#{index}/{count}", *long) for index in (1, 2))
    assert cluster.wait([one, other], 2) is None
    cluster.cancel(one, is_killed=True)
    assert cluster.wait([one, other], 100) == one
    with pytest.raises(Lost):
        cluster.answer(one)
    assert cluster.wait([other], 5) is None, "what another part is asked goes on"
    cluster.cancel(other)
    assert cluster.wait([other], 100) == other
    with pytest.raises((Lost, Refused)):
        cluster.answer(other)


def main() -> None:
    """Ask the real cluster at an address. The questions that fail are one for prompts that are not there, and none."""
    path = Path(sys.argv[2])
    resolved = resolve(load_scenario(path), path)
    gone = Question.of(replace(resolved, prompts_path=path.with_name("gone.jsonl")))
    with open_cluster(sys.argv[1]) as there:
        keeps_the_contract(
            there,
            refused=("join", json.dumps(to_json(gone))),
            lost=("join", "{}"),
            long=("measure", json.dumps(to_json(a_measure(resolved)))),
        )


if __name__ == "__main__":
    main()
