"""The machines of a cluster as places of a search: each proves that it belongs, gets one trial at a time, may be lost.

The coordinator, which is the search itself, stays the only one who writes the run folder: an attempt comes back as one
checked archive whose files are put in place before its trial is handed on. An attempt that was given up has its token
closed, and whatever still answers to it is handed on without a trial, to be dropped.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EnvironmentFault
from harness.places.attempt import Attempt, Place, as_base64, beside
from harness.places.calibrator import CalibrationTerms, Calibrator
from harness.places.cluster import LOSSES, Cluster, Lost, Refused, Task, short
from harness.places.proof import difference
from harness.places.requests import Joined, Measure, Question
from harness.records import Candidate, Trial
from harness.store.archive import DamagedArchive, unpack
from harness.store.codec import from_json, to_json
from harness.store.layout import RunLayout
from harness.trial.reference import Reference
from harness.tune.places import Done, Order

LOOK_S = 2.0
"""Between two looks at which nodes are there."""
JOIN_S = 900.0
"""Until a place must have proven what it has; hashing takes some seconds for each 10 GB, a download longer."""
NONE_LEFT_S = 60.0
"""How long a search without any place waits for one to join."""
END_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What every place of a run is asked and must prove. `proof` is the coordinator's, `left_s` what is left of the
    search, `calibration` how the machines are compared. `only`: the machines that may join, None: all."""

    question: Question
    proof: dict[str, str]
    machine_class: str
    reference: Reference
    left_s: Callable[[], float]
    calibration: CalibrationTerms
    only: frozenset[str] | None = None


class FarPlaces:
    """Places of one class in a cluster, at most `most` of them; see `harness.tune.places.Places`. `note` gets a line
    for each machine that joins, leaves or is refused."""

    def __init__(
        self,
        cluster: Cluster,
        asked: Asked,
        layout: RunLayout,
        *,
        most: int,
        note: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._asked, self._layout = cluster, asked, layout
        self._most, self._note, self._now = most, note, now
        self._calibrator = Calibrator(asked.calibration, now)
        self._ask_at_s: dict[str, float] = {}  # of each node that is there: when to ask it to join, inf: never again
        self._losses: Counter[str] = Counter()
        self._joining: dict[Task, str] = {}
        self._places: dict[str, Place] = {}
        self._attempts: dict[Task, Attempt] = {}
        self._waiting: list[Order] = []
        self._lost: list[Done] = []
        self._engines: dict[str, str] | None = None
        self._refusals: list[str] = []
        self._block = ""
        self._calibrations, self._judged = asked.calibration.launches, asked.calibration.judged
        self._reserve: list[Place] = []
        self._memories_mib: dict[str, float] = {}

    def admit(self, timeout_s: float = JOIN_S) -> None:
        """Wait until every machine that is there has proven that it belongs, or has not, a minute for one where none
        is. Raises EnvironmentFault where none does."""
        self._look()
        until = self._now() + timeout_s
        none_until = self._now() + NONE_LEFT_S
        while (left_s := until - self._now()) > 0 and (
            self._joining
            or min(self._ask_at_s.values(), default=math.inf) < math.inf
            or (self._now() < none_until and not self._places and not self._refusals)
        ):
            if (task := self._cluster.wait(list(self._joining), min(left_s, LOOK_S))) is not None:
                self._joined(task)
            self._look()
            if self._joining or self._places:
                none_until = self._now() + NONE_LEFT_S
        for task, node in self._joining.items():
            self._cluster.cancel(task, is_killed=True)
            self._refuse(f"node {short(node)}: no proof within {timeout_s:g} s")
        self._joining.clear()
        if not self._places:
            why = "; ".join(self._refusals) or "all left the cluster"
            raise EnvironmentFault(f"no machine of the cluster can run this search: {why}")

    @property
    def machines(self) -> tuple[str, ...]:
        """Ids of the machines that take trials now."""
        return tuple(place.machine_id for place in self._places.values())

    @property
    def set_aside(self) -> Mapping[str, str]:
        """Machine -> why its trials are not ranked."""
        return self._calibrator.set_aside

    @property
    def scales(self) -> Mapping[str, float]:
        """Machine -> by what factor it is slower than its class."""
        return self._calibrator.scales

    @property
    def memories_mib(self) -> Mapping[str, float]:
        """Machine -> the memory it has, of those that took trials."""
        return self._memories_mib

    def check_machines(self) -> None:
        """Calibrate each machine that ran trials since its last calibration; without time left none. Raises
        EnvironmentFault as `next_done` does."""
        if self._asked.left_s() <= 0:
            self._note("no time is left to calibrate the machines once more")
        else:
            self._calibrator.check_again()
            while self._calibrator.is_busy:
                self.next_done()
        if self._places:
            largest = max(self._places.values(), key=lambda place: place.memory_mib)  # it can hold each finalist
            self._choose_block(self._places.get(self._block) or largest)

    def is_free(self, avoid: frozenset[str] = frozenset()) -> bool:
        """Whether another order may begin now, on a machine that is not to be avoided."""
        return not self._waiting and any(place.machine_id not in avoid for place in self._free())

    def begin(self, order: Order) -> None:
        """Place an order; where no machine is free it waits for one."""
        self._waiting.append(order)
        self._place_waiting()

    def next_done(self) -> Done | None:
        """The next order that ended; None when a machine joined. Raises EnvironmentFault where no machine is left and
        none joins for a minute, or the cluster's connection is lost."""
        none_since_s = self._now()
        while True:
            if self._lost:
                return self._lost.pop(0)
            self._place_waiting()
            task = self._cluster.wait([*self._attempts, *self._joining], LOOK_S)
            if task in self._joining:
                if self._joined(task):
                    return None
            elif task is not None and self._attempts[task].is_calibration:
                self._calibrated(task)
                if self._free():
                    return None
            elif task is not None and (done := self._ended(task)) is not None:
                return done
            self._look()
            if self._places or self._joining or self._lost:
                none_since_s = self._now()
            elif self._now() - none_since_s > NONE_LEFT_S:
                raise EnvironmentFault(
                    f"no machine is left: {'; '.join(self._refusals) or 'all left the cluster'}; start some and run "
                    "the same command again: it continues from there"
                )

    def end(self) -> None:
        """Interrupt what is under way, then kill what does not end; returns when no engine of it runs any more."""
        tasks = [*self._attempts, *self._joining]
        for task in tasks:
            self._cluster.cancel(task)
        until = self._now() + END_S
        while tasks and (left_s := until - self._now()) > 0:
            if (task := self._cluster.wait(tasks, left_s)) is not None:
                tasks.remove(task)
        for task in tasks:
            self._cluster.cancel(task, is_killed=True)
        self._attempts.clear()
        self._joining.clear()

    def run_file(self, path: Path, candidate: Candidate, number: int) -> Trial:
        """The trial of a server started from a written file that describes `candidate`, on the finalists' machine; its
        id is 'verify-...'. The files beside it are sent along. Raises EnvironmentFault where no machine answers."""
        order = Order(number=number, candidate=candidate, repetition=1)
        self._look()
        if not self._places:
            raise EnvironmentFault(f"{path}: not verified, no machine is left; run `dyno recommend --verify` on one")
        self._begin(order, self._best(list(self._places.values()), order), path)
        while (done := self.next_done()) is None:
            pass
        if done.trial is None:
            raise EnvironmentFault(f"{path}: not verified, machine {done.machine} did not answer: {done.lost}")
        return done.trial

    def _free(self) -> list[Place]:
        return [place for place in self._idle() if self._calibrator.is_ready(place.machine_id)]

    def _idle(self) -> list[Place]:
        busy = {attempt.place.node for attempt in self._attempts.values() if attempt.is_open}
        return [place for place in self._places.values() if place.node not in busy]

    def _place_waiting(self) -> None:
        for place in self._idle():
            if self._calibrator.wants(place.machine_id):
                self._calibrations += 1
                order = Order(number=self._calibrations, candidate=self._calibrator.candidate, judged=self._judged)
                self._begin(order, place, is_calibration=True)
        while self._waiting and (free := self._free_for(self._waiting[0])):
            order = self._waiting.pop(0)
            self._begin(order, self._best(free, order))

    def _free_for(self, order: Order) -> list[Place]:
        """Free machines; only such as can hold the order while one of those takes trials, free or not."""
        able = [place for place in self._places.values() if place.machine_id not in order.too_small]
        return [place for place in self._free() if place in able or not able]

    def _best(self, free: list[Place], order: Order) -> Place:
        """A machine that is not to be avoided; for the finalists one and the same, so that they are compared in a block
        of one machine."""
        place = min(
            free, key=lambda each: (each.machine_id in order.avoid, order.repetition and each.node != self._block)
        )
        if order.repetition and self._block != place.node:
            self._choose_block(place)
        return place

    def _choose_block(self, place: Place) -> None:
        self._block = place.node
        self._calibrator.rank_alone(place.machine_id)

    def _begin(self, order: Order, place: Place, path: Path | None = None, *, is_calibration: bool = False) -> None:
        attempt = Attempt(order=order, place=place, token=secrets.token_hex(8), is_calibration=is_calibration)
        terms = None if order.repetition or is_calibration else order.terms_on(place.machine_id)
        request = Measure(
            token=attempt.token,
            question=self._asked.question,
            reference=self._asked.reference,
            number=order.number,
            candidate=order.candidate,
            left_s=self._asked.left_s(),
            judged=order.judged,
            repetition=order.repetition,
            written={} if path is None else beside(path),
            started="" if path is None else path.name,
            prefix=f"calibration{order.number:04d}" if is_calibration else "",
            terms=terms,
            raced="" if terms is None else as_base64(self._layout.requests(terms.against)),
        )
        self._attempts[self._cluster.ask(place.node, "measure", json.dumps(to_json(request)))] = attempt

    def _look(self) -> None:
        """Ask nodes that are new, or due again, to join, and give up what runs on nodes that are gone."""
        nodes = self._cluster.nodes()
        self._ask_at_s = {node: self._ask_at_s.get(node, self._now()) for node in sorted(nodes)}
        for node in [node for node, at_s in self._ask_at_s.items() if at_s <= self._now()]:
            self._ask_at_s[node] = math.inf
            if node not in self._joining.values():  # it may have left and come back
                self._joining[self._cluster.ask(node, "join", json.dumps(to_json(self._asked.question)))] = node
        for node in [node for node in self._places if node not in nodes]:
            self._note(f"machine {self._give_up(node).machine_id} left the cluster")
            for attempt in self._attempts.values():
                if attempt.place.node == node and attempt.is_open:
                    attempt.is_open = False
                    if not attempt.is_calibration:
                        self._lost.append(attempt.lost("its node left the cluster"))
        self._reserve = [place for place in self._reserve if place.node in nodes]
        while self._reserve and len(self._places) < self._most:
            self._take(self._reserve.pop(0))

    def _ask_again(self, node: str) -> None:
        """After a pause: a node may be gone for seconds before the engine knows."""
        self._ask_at_s[node] = self._now() + LOOK_S

    def _joined(self, task: Task) -> bool:
        """Whether the machine takes trials from now on."""
        node = self._joining.pop(task)
        try:
            joined = from_json(Joined, json.loads(self._cluster.answer(task)))
        except Refused as error:
            self._refuse(f"node {short(node)}: {error}")
            return False
        except Lost as error:
            self._losses[node] += 1
            if self._losses[node] < LOSSES:
                self._ask_again(node)
            else:
                self._refuse(f"node {short(node)}: {error}")
            return False
        del self._losses[node]
        name = joined.machine.machine_id
        place = Place(node, name, float(str(joined.machine.facts["memory_mib"])))
        if (why := self._why_not(joined)) != "":
            self._refuse(f"machine {name}: {why}")
            return False
        self._engines = dict(joined.engines)
        if len(self._places) >= self._most:
            self._reserve.append(place)
            self._note(f"machine {name} is kept in reserve: {self._most} at once, a sixth of search.trials, are enough")
            return False
        self._take(place)
        return True

    def _give_up(self, node: str) -> Place:
        place = self._places.pop(node)
        self._calibrator.leave(place.machine_id)
        return place

    def _take(self, place: Place) -> None:
        self._places[place.node] = place
        self._memories_mib[place.machine_id] = place.memory_mib
        self._calibrator.join(place.machine_id, self._asked.machine_class)
        self._note(f"machine {place.machine_id} of class {self._asked.machine_class} takes trials")

    def _why_not(self, joined: Joined) -> str:
        """'' or why a machine that answered cannot be a place of this run."""
        machine = joined.machine
        if machine.machine_class != self._asked.machine_class:
            return f"it is of class {machine.machine_class}, the search runs in class {self._asked.machine_class}"
        if self._asked.only is not None and machine.machine_id not in self._asked.only:
            return "it was not there when the parts were compared with each other; the next search takes it"
        if differs := difference(self._asked.proof, joined.proof):
            how = "`dyno machines --prepare` brings it to this machine's state"
            return f"it would not answer the same question ({differs}); {how}"
        if differs := difference(self._engines or joined.engines, joined.engines):
            return f"its engines are not those of the other machines ({differs})"
        if machine.machine_id in (*self.machines, *(place.machine_id for place in self._reserve)):
            return "another node stands for it already"
        if why := self.set_aside.get(machine.machine_id):
            return f"it was set aside in this run: {why}"
        return ""

    def _refuse(self, why: str) -> None:
        self._refusals.append(why)
        self._note(f"left out: {why}")

    def _calibrated(self, task: Task) -> None:
        """Take in a launch of the calibration candidate; a machine that it sets aside is a place no longer."""
        place = self._attempts[task].place
        done = self._ended(task)
        if done is not None and done.trial is not None:
            self._calibrator.took(place.machine_id, done.trial)
            if done.trial.has_numbers and done.trial.is_judged:
                self._judged = done.trial  # the same candidate gives the same answers
            for each in [each for each in self._places.values() if each.machine_id in self.set_aside]:
                self._give_up(each.node)

    def _ended(self, task: Task) -> Done | None:
        """What became of an attempt; None where its loss was handed on before."""
        attempt = self._attempts.pop(task)
        try:
            arrived = unpack(self._cluster.answer(task), attempt.token)
            if arrived.trial.machine != attempt.place.machine_id:
                raise DamagedArchive(f"it is of machine {arrived.trial.machine}, expected {attempt.place.machine_id}")
        except (Refused, Lost, DamagedArchive) as error:
            if self._places.get(attempt.place.node) is attempt.place:  # no other, which joined after it had left
                self._give_up(attempt.place.node)
                if isinstance(error, Refused):
                    self._refuse(f"machine {attempt.place.machine_id}: {error}")
                else:
                    self._ask_again(attempt.place.node)
            return attempt.lost(str(error)) if attempt.is_open else None
        if not attempt.is_open:
            return attempt.lost("it was given up before")
        arrived.write(self._layout)
        if not attempt.is_calibration:
            self._calibrator.trial_ended(attempt.place.machine_id)
        return Done(order=attempt.order, trial=arrived.trial, machine=attempt.place.machine_id)
