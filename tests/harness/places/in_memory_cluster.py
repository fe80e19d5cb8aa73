"""A cluster in memory: nodes answer as programmed, time passes only while an answer is waited for."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import EnvironmentFault
from harness.measure.machine.machine_class import Machine
from harness.places.cluster import Lost, Refused, Task, machine_of, part_of, parts_of
from harness.places.requests import Described, Joined, Measure, Verb
from harness.store.archive import pack
from harness.store.codec import from_json, to_json
from harness.store.layout import RunLayout
from tests.harness.store.trials import a_trial

Answer = bytes | Exception | Callable[[], bytes]
PROOF = {"commit": "abc", "code": "1" * 64, "weights": "2" * 64, "scenario": "0123456789"}


class InMemoryCluster:
    """`machines` by node. A trial takes 10 s; of `fates` the first that is left happens to the next trial:
    'lost' (its worker), 'node' (the node leaves), 'late' (the node leaves, its answer comes all the same), 'damaged',
    or a sentence with which the place refuses."""

    def __init__(self, folder: Path, machines: dict[str, Machine], fates: Collection[str] = ()) -> None:
        self.machines, self.fates = dict(machines), list(fates)
        self.proofs = {node: dict(PROOF) for node in machines}
        self.engines: dict[str, dict[str, str]] = {}
        self.silent: set[str] = set()
        self.dead: set[str] = set()
        self.measured: list[tuple[str, Measure]] = []
        self.cancelled: list[tuple[Task, bool]] = []
        self.now_s = 0.0
        self.is_closed = self.is_gone = False
        self.split = 1
        self._folder, self._asked = folder, 0
        self._answers: dict[Task, tuple[float, Answer]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_closed = True

    def nodes(self) -> frozenset[str]:
        if self.is_gone:
            raise EnvironmentFault("the connection is lost")
        return frozenset(parts_of(self.machines, self.split))

    def ask(self, node: str, verb: Verb, request: str) -> Task:
        self._asked += 1
        took_s, answer = self._answer(node, verb, request)
        if machine_of(node) in self.dead:
            took_s, answer = 1.0, Lost("TaskUnschedulableError")
        at_s = float("inf") if machine_of(node) in self.silent else self.now_s + took_s
        self._answers[self._asked] = at_s, answer
        return self._asked

    def machine(self, node: str) -> Machine:
        """The machine, or its part that is asked, with the name that `this_machine` gives it."""
        whole = self.machines[machine_of(node)]
        if not (part := part_of(node)):
            return whole
        index, count = part.split("/")
        return Machine(
            machine_id=f"{whole.machine_id}.{index}of{count}", facts={**whole.facts, "split_into": int(count)}
        )

    def _answer(self, node: str, verb: Verb, request: str) -> tuple[float, Answer]:
        machine = self.machine(node)
        if verb == "describe":
            return 1.0, json.dumps(to_json(Described(machine=machine))).encode()
        if verb == "join":
            joined = Joined(machine=machine, proof=self.proofs.get(node, PROOF), engines=self.engines.get(node, {}))
            return 1.0, json.dumps(to_json(joined)).encode()
        return self._measured(node, from_json(Measure, json.loads(request)))

    def _measured(self, node: str, measure: Measure) -> tuple[float, Answer]:
        self.measured.append((node, measure))
        fate = self.fates.pop(0) if self.fates and not measure.prefix else ""
        archive = self.archive(self.machine(node), measure)
        if fate in ("node", "late"):
            del self.machines[machine_of(node)]
        outcomes: dict[str, Answer] = {
            "": archive,
            "late": archive,
            "lost": Lost("WorkerCrashedError: the worker died unexpectedly"),
            "node": Lost("NodeDiedError"),
            "damaged": archive.replace(b"{}\n", b"{]\n"),
        }
        return 10.0, outcomes.get(fate, Refused(fate))

    def archive(self, machine: Machine, measure: Measure, **fields: object) -> bytes:
        """A trial that ended well, but for `fields`, with its files."""
        name = f"{measure.prefix or f't{measure.number:04d}'}-{measure.candidate.candidate_id}"
        trial = a_trial(measure.number, **{"trial_id": name, "candidate": measure.candidate, **fields})
        trial = replace(trial, machine=machine.machine_id, machine_class=machine.machine_class)
        layout = RunLayout(self._folder / name)
        layout.outputs(name).parent.mkdir(parents=True, exist_ok=True)
        layout.outputs(name).write_text("{}\n")
        return pack(layout, trial, measure.token)

    def wait(self, tasks: Collection[Task], timeout_s: float) -> Task | None:
        task = min(tasks, default=None, key=lambda each: self._answers[each][0])
        at_s = float("inf") if task is None else self._answers[task][0]
        if at_s > self.now_s + timeout_s:
            self.now_s += timeout_s
            return None
        self.now_s = max(self.now_s, at_s)
        return task

    def answer(self, task: Task) -> bytes:
        answer = self._answers.pop(task)[1]
        if callable(answer):
            return answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cancel(self, task: Task, *, is_killed: bool = False) -> None:
        self.cancelled.append((task, is_killed))
        self._answers[task] = self.now_s + 1, Lost("TaskCancelledError")
