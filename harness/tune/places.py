"""The places where a search's trials run: the seam between the search and whatever launches them.

The search proposes, numbers, records and learns; a place measures one candidate at a time and hands the trial back.
`Here` is this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from harness.errors import Interrupted
from harness.records import Candidate, Trial, TrialOutcome
from harness.tune.racing import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One trial to run. Its `number` is given when it begins and never twice, so a late answer to a lost order is
    recognized. `judged` is a trial whose quality holds for this one too, `repetition` the round of the finalists, 0 in
    the search; `avoid` are machines that a trial of this candidate was lost with, `terms_on` gives what it is raced on
    by a machine's id ('': on any), `again` why a candidate that was launched before is launched once more. `too_small`
    are machines that cannot hold it: it waits for another while there is one."""

    number: int
    candidate: Candidate
    judged: Trial | None = None
    repetition: int = 0
    avoid: frozenset[str] = frozenset()
    too_small: frozenset[str] = frozenset()
    terms_on: Callable[[str], Terms | None] = lambda machine: None
    again: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of an order: its `trial`, files included; or None, and `lost` is why `machine` never answered."""

    order: Order
    trial: Trial | None
    lost: str = ""
    machine: str = ""


class Places(Protocol):
    """Machines of one class. One order per machine, none is ever run again without being asked: a second run of an
    order would be a measurement that nobody knows of."""

    @property
    def set_aside(self) -> Mapping[str, str]:
        """Machine -> why its trials are not ranked: it differs from the others. It gets no more orders."""
        ...

    @property
    def scales(self) -> Mapping[str, float]:
        """Machine -> by what factor it is slower than its class."""
        ...

    @property
    def machines(self) -> tuple[str, ...]:
        """Ids of the machines that take trials now."""
        ...

    @property
    def memories_mib(self) -> Mapping[str, float]:
        """Machine -> the memory it has, of those that took trials; none where all are run on one."""
        ...

    def check_machines(self) -> None:
        """Compare the machines once more, those that ran orders since; `set_aside` may hold more of them then."""
        ...

    def is_free(self, avoid: frozenset[str] = frozenset()) -> bool:
        """Whether another order may begin now, on a machine that is not to be avoided."""
        ...

    def begin(self, order: Order) -> None:
        """Place an order on a free machine, if one is free on none that is to be avoided; returns at once."""
        ...

    def next_done(self) -> Done | None:
        """The next order that ended, waited for; None when a machine became free or was set aside instead. An
        interruption passes through."""
        ...

    def end(self) -> None:
        """Stop what is under way; returns when no engine of it runs any more."""
        ...


class RunTrial(Protocol):
    """Measures a candidate as the trial of that number; may raise Interrupted carrying its record as `.trial`."""

    def __call__(
        self, candidate: Candidate, number: int, *, judged: Trial | None, order: int, terms: Terms | None
    ) -> Trial:
        """`judged` is a trial whose quality holds for this one too; None: its own answers are to be judged. The load
        comes in the arrival order of that number, and ends early when it surely loses by `terms`."""
        ...


class Here:
    """This machine, of that id: one trial at a time, run while its end is waited for."""

    set_aside: Mapping[str, str] = MappingProxyType({})
    scales: Mapping[str, float] = MappingProxyType({})
    memories_mib: Mapping[str, float] = MappingProxyType({})

    def __init__(self, run_trial: RunTrial, machine: str = "") -> None:
        self._run_trial, self._machine = run_trial, machine
        self.machines = (machine,)
        self._waiting: list[Order] = []

    def check_machines(self) -> None:
        """One machine has nobody to be compared with."""

    def is_free(self, avoid: frozenset[str] = frozenset()) -> bool:
        """While no order waits."""
        return not self._waiting

    def begin(self, order: Order) -> None:
        """Keep the order until `next_done`."""
        self._waiting.append(order)

    def next_done(self) -> Done:
        """Run the order that waits; interrupted, its trial is the record of the interruption."""
        order = self._waiting.pop()
        try:
            terms = order.terms_on(self._machine)
            trial = self._run_trial(
                order.candidate, order.number, judged=order.judged, order=order.repetition, terms=terms
            )
        except (Interrupted, KeyboardInterrupt) as error:
            carried = getattr(error, "trial", None)
            trial = carried if isinstance(carried, Trial) else not_run(order, "interrupted", "stopped by the user")
        return Done(order=order, trial=trial)

    def end(self) -> None:
        """Nothing runs between two calls."""


def not_run(order: Order, outcome: TrialOutcome, reason: str, machine: str = "") -> Trial:
    """The record of an order without a measurement."""
    return Trial(
        trial_id=f"t{order.number:04d}-{order.candidate.candidate_id}",
        number=order.number,
        candidate=order.candidate,
        outcome=outcome,
        reason=reason,
        machine=machine,
        repetition=order.repetition,
    )
