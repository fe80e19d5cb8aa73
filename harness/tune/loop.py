"""The search loop: propose a candidate, run its trial, record, learn; then the finalists again, in turns.

Every finished trial is recorded before anything learns from it, so a kill at any moment loses the trial in flight and
nothing else; the next session replays the recorded trials and continues as the first would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from harness.choose.goals import goals_of
from harness.quality.inheritance import judged_before
from harness.records import NOT_MEASURED, Candidate, Trial, next_number
from harness.store.blocks import without_void_block
from harness.store.reader import marked
from harness.tune.budget import Budget, stored_duration_s
from harness.tune.expected_gain import ENOUGH_FRAC, LOOKS, has_enough
from harness.tune.finalists import finalists, first_measurements, remaining, whole_measurements
from harness.tune.implausible import implausible
from harness.tune.lost_machines import losses, lost_once
from harness.tune.memory_model import ChancesToFit, why_too_large
from harness.tune.places import Done, Order, not_run
from harness.tune.racing import Terms, terms_for
from harness.tune.reopened import reopened
from harness.tune.sampler import Proposals, StudyRecord
from harness.tune.scaled import scaled
from harness.tune.search_records import EventKind, SearchContext, SearchEvent, SearchResult, StopKind
from harness.tune.surrogate import Distances
from harness.tune.unequal_memory import TooSmall
from harness.units import NS_PER_S

WHOLE = "measured whole: by what launches differ it may be as good as the best, although it had ended early"
"""Why a candidate that lost its race is launched once more."""


def search(context: SearchContext) -> SearchResult:
    """Measure candidates until trials, minutes or the space end or the next one should gain too little, then the
    finalists again; at least one is measured.

    Ctrl-C ends the search with stop 'interrupted', a trial in flight recorded as such; every other exception of
    the places passes through, with all finished trials recorded.
    """
    session = _Session(context)
    try:
        stop, reason = session.explore()
        while stop != "interrupted" and session.is_short_after_check():
            stop, reason = session.explore()
        if stop != "interrupted":
            stop, reason = session.confirm(stop, reason)
    except KeyboardInterrupt:
        stop, reason = "interrupted", "interrupted by the user between trials"
    finally:
        context.places.end()
    session.interrupt_rest()
    context.on_event(session.event("stopped", text=reason))
    return SearchResult(trials=tuple(session.trials), stop=stop, stop_reason=reason)


class _Session:
    """One process's part of a search."""

    def __init__(self, context: SearchContext) -> None:
        self._context = context
        self._limits = context.scenario.search
        self.trials = list(context.done)
        self._study = StudyRecord(context.study_path, context.plan, context.scenario)
        for trial in context.done:
            self._study.add(trial)
            context.spending.note_stored(trial)
        self._distances = Distances(context.plan.candidates)
        self._goals = goals_of(context.scenario)
        self._memories_mib: Mapping[str, float] = {}
        self._too_small = TooSmall()
        self._unranked: Mapping[str, str] | None = None
        self._mark()
        self._compared: tuple[Mapping[str, str], Mapping[str, float]] | None = None
        self._learn_anew()
        spent_s = context.spent_before_s + stored_duration_s(context.done)
        self._budget = Budget(self._limits.max_minutes * 60, context.clock, spent_s)
        for trial in context.done:
            if trial.outcome not in (*NOT_MEASURED, "skipped", "ended_early"):
                self._budget.note(trial, trial.duration_s)
        self._probing: tuple[int | None, ...] = ()
        self._begun: dict[int, tuple[Order, int]] = {}
        """Number -> the order under way, and when it began."""

    def explore(self) -> tuple[StopKind, str]:
        """Measure proposed candidates until something ends it and none is under way; returns what and why."""
        while True:
            stop = None
            while stop is None and self._context.places.is_free():
                stop = self._begin_next()
            if stop is not None and not self._begun:
                return stop
            if (trial := self._next_finished()) is None:
                continue
            if trial.outcome == "interrupted":
                return "interrupted", f"interrupted by the user in trial {trial.trial_id}"
            if trial.outcome not in NOT_MEASURED:
                self._proposals.learn(scaled(trial, self._context.places.scales, self._goals.figures))

    def _begin_next(self) -> tuple[StopKind, str] | None:
        """Begin the next candidate's trial, or skip it; what ends the search, and why, where nothing may begin."""
        self._look_at_memories()
        self._learn_anew()
        pending = tuple(order.candidate for order, _ in self._begun.values())
        candidate, others = self._proposed(pending)
        if candidate is None:
            return "exhausted", self._why_exhausted()
        measured = self._measured()
        if measured + len(others) >= self._limits.trials:
            return "budget", f"trial budget: {measured} of {self._limits.trials} candidates measured"
        if (enough := self._why_enough()) is not None:
            return "converged", enough
        if (why := self._why_not(candidate)) is not None:
            self._skip(candidate, why)
            return None
        late = self._budget.why_stop(candidate, self._reserve_s(candidate))
        if late is not None and measured + len(pending) > 0:
            return "budget", late
        if (broke := self._context.spending.why_stop(candidate, pending)) is not None:
            return "budget", broke
        self._begin(candidate)
        return None

    def _look_at_memories(self) -> None:
        """Where a machine takes trials that has more memory than any before, what it alone can hold comes back."""
        plan_for, memories_mib = self._context.plan_for, dict(self._context.places.memories_mib)
        if plan_for is None or memories_mib == self._memories_mib:
            return
        self._memories_mib = memories_mib
        machine, most_mib = max(memories_mib.items(), key=lambda each: each[1])
        if most_mib > self._context.memory_mib:
            before, plan = self._context.plan.size, plan_for(most_mib)
            self._context = replace(self._context, plan=plan, memory_mib=most_mib)
            if plan.size > before:
                self._begin_anew()
                text = f"candidates that needed more memory come back: {plan.size - before}, by machine {machine} with "
                self._context.on_event(self.event("widened", text=f"{text}{most_mib:,.0f} MiB"))
        self._too_small = TooSmall.by_plans(self._context.plan, plan_for, memories_mib)

    def _begin_anew(self) -> None:
        """Propose by a plan that has become another one."""
        self._study = StudyRecord(self._context.study_path, self._context.plan, self._context.scenario)
        for trial in self.trials:
            self._study.add(trial)
        self._distances = Distances(self._context.plan.candidates)
        self._compared = None

    def _proposed(self, pending: Sequence[Candidate]) -> tuple[Candidate | None, Sequence[Candidate]]:
        """The candidate to begin, and the others that were begun, or are begun anew once a machine is free for them."""
        places = self._context.places
        nowhere = self._too_small.nowhere(places.machines)
        lost = [each for each in lost_once(self.trials, pending) if each.candidate_id not in nowhere]
        again = next((each for each in lost if not pending or self._is_free_for(each)), None)
        others = (*pending, *(each for each in lost if each is not again))
        not_now = self._too_small.not_now(places.is_free) | nowhere
        candidate = again or self._proposals.next(others, self._chance_to_fit(), not_now)
        if candidate is None and len(not_now) > len(nowhere):  # it waits for a machine that can hold it
            candidate = self._proposals.next(others, self._chance_to_fit(), nowhere)
        return candidate, others

    def _why_exhausted(self) -> str:
        seen = {trial.candidate.candidate_id for trial in first_measurements(self.trials)}
        left = self._too_small.nowhere(self._context.places.machines) - seen
        size = self._context.plan.size
        done = f"space exhausted: each of its {size - len(left)} candidates measured or skipped"
        return f"{done}; {len(left)} others need more memory than any machine there has" if left else done

    def is_short_after_check(self) -> bool:
        """Whether trials are missing now: the machines were compared once more, and one was set aside with its own."""
        measured = self._measured()
        self._context.places.check_machines()
        self._mark()
        return self._measured() < measured

    def confirm(self, stop: StopKind, reason: str) -> tuple[StopKind, str]:
        """Measure the finalists again, in turns, and whole what would not have lost its race by what is known then of
        launches, while time allows."""
        while (following := self._next_to_confirm()) is not None:
            candidate, repetition = following
            late = self._budget.why_stop(candidate, self._verification_s()) or self._context.spending.why_stop(
                candidate
            )
            if late is not None:
                return stop, f"{reason}; finalists not all measured again ({late})"
            self._begin_again(candidate, repetition)
            trial = None
            while trial is None:
                trial = self._next_finished()
            if trial.outcome == "interrupted":
                return "interrupted", f"interrupted by the user in trial {trial.trial_id}, a repetition"
        again = sum(trial.repetition > 0 for trial in self.trials)
        reason += f"; finalists measured again ({again} trials)" if again else ""
        raced = (
            sum(each.race is not None for each in of(self.trials)) for of in (first_measurements, whole_measurements)
        )
        whole = next(raced) - next(raced)
        return stop, reason + (f"; measured whole after a race: {whole}" if whole else "")

    def _next_to_confirm(self) -> tuple[Candidate, int] | None:
        """(candidate, round of the finalists; 0: it had ended early and is measured whole) or None: all is done."""
        scenario = self._context.scenario
        left = remaining(self._comparable(), scenario)
        if left or not self._limits.confirm.repetitions:
            return next(iter(left), None)
        again = reopened(self._comparable(), scenario, self._context.earlier)
        return (again[0], 0) if again else None

    def event(self, kind: EventKind, trial: Trial | None = None, text: str = "") -> SearchEvent:
        """An event with the counters of now."""
        return SearchEvent(kind=kind, measured=self._measured(), spent_s=self._budget.spent_s(), trial=trial, text=text)

    def interrupt_rest(self) -> None:
        """Record what was under way when the search ended as interrupted."""
        for order, _ in self._begun.values():
            self._keep(not_run(order, "interrupted", "stopped by the user"))
        self._begun.clear()

    def _begin(self, candidate: Candidate) -> None:
        self._launch(self._order(candidate, judged=self._judged(candidate), terms_on=partial(self._terms, candidate)))

    def _begin_again(self, candidate: Candidate, repetition: int) -> None:
        """Launch a finalist in that round, or (0) whole what had ended early."""
        again = f"repetition {repetition}: a finalist measured again" if repetition else WHOLE
        judged = None if repetition else self._judged(candidate)
        self._launch(self._order(candidate, judged=judged, repetition=repetition, again=again))

    def _order(self, candidate: Candidate, **about: Any) -> Order:
        number = max(next_number(self.trials), *(number + 1 for number in self._begun), 1)
        avoid, small = _machines(losses(self.trials, candidate)), self._too_small.machines(candidate)
        return Order(number=number, candidate=candidate, avoid=avoid, too_small=small, **about)

    def _launch(self, order: Order) -> None:
        text = f"repetition {order.repetition}" if order.repetition else order.again or self._new_probing(order)
        launching = self.event("launching", text=text)
        expected_s = self._budget.expected_s(order.candidate.engine)
        about = replace(launching, candidate=order.candidate, number=order.number, expected_s=expected_s)
        self._context.on_event(about)
        self._begun[order.number] = order, self._context.clock.now_ns()
        self._context.places.begin(order)

    def _new_probing(self, order: Order) -> str:
        """Whether the trial's load begins with a probe and why; '' where that was as well the last time."""
        terms = order.terms_on("")
        if terms is None:
            return ""
        before, self._probing = self._probing, (terms.probe,)
        return "" if self._probing == before else terms.probe_why

    def _is_free_for(self, candidate: Candidate) -> bool:
        avoid = _machines(losses(self.trials, candidate)) | self._too_small.machines(candidate)
        return self._context.places.is_free(avoid)

    def _next_finished(self) -> Trial | None:
        """The next trial that ended, recorded; None when a machine became free instead, or an answer was dropped: one
        to an order that had been given up."""
        done = self._context.places.next_done()
        self._mark()
        if done is None:
            return None
        if done.order.number not in self._begun:
            text = f"an answer of {done.machine} to trial {done.order.number}, which was given up before, is dropped"
            self._context.on_event(self.event("dropped", text=text))
            return None
        order, begun_ns = self._begun[done.order.number]
        trial = done.trial or self._lost(done)
        if order.again and done.trial is not None:
            trial = replace(trial, repetition=order.repetition, notes=(*trial.notes, order.again))
        self._keep(trial)
        del self._begun[order.number]
        if trial.outcome not in (*NOT_MEASURED, "ended_early"):
            self._budget.note(trial, (self._context.clock.now_ns() - begun_ns) / NS_PER_S)
        self._context.on_event(self.event("finished", trial=trial))
        return trial

    def _why_not(self, candidate: Candidate) -> str | None:
        """Why launching `candidate` is no use, by what earlier launches showed."""
        if not self._context.prunes:
            return None
        memory_mib = self._context.memory_mib
        why = implausible(candidate, self.trials, memory_mib, self._context.places.memories_mib)
        if why is None and (why := why_too_large(candidate, self.trials, memory_mib)) and self._memories_mib:
            why += "; a machine that joins later does not bring it back"
        return why

    def _chance_to_fit(self) -> Callable[[Candidate], float]:
        """How likely a candidate fits into memory, by what earlier launches took."""
        if not self._context.prunes:
            return lambda candidate: 1.0
        return ChancesToFit(self.trials, self._context.memory_mib, self._context.places.memories_mib).chance

    def _lost(self, done: Done) -> Trial:
        """The record of a machine that never answered: the first loss is not the candidate's fault, the second is."""
        before = losses(self.trials, done.order.candidate)
        if not before:
            return not_run(done.order, "machine_lost", done.lost, done.machine)
        reason = f"its machine was lost twice ({before[-1].machine}, {done.machine}): {done.lost}"
        return not_run(done.order, "crashed", reason, done.machine)

    def _why_enough(self) -> str | None:
        """None while a next trial that can run may gain something; else the sentence. A grid is measured whole."""
        nowhere = self._too_small.nowhere(self._context.places.machines)
        if self._limits.sampler == "grid" or self._proposals.is_at_first(nowhere):
            return None
        first = first_measurements(self._comparable())
        seen = nowhere | {trial.candidate.candidate_id for trial in first}
        left = [each for each in self._context.plan.candidates if each.candidate_id not in seen]
        if not has_enough(self._distances, self._goals, first, left):
            return None
        return (
            f"{LOOKS} times running the next trial should gain less than {100 * ENOUGH_FRAC:g} % "
            f"({self._measured()} candidates measured)"
        )

    def _terms(self, candidate: Candidate, machine: str) -> Terms | None:
        """What its trial is raced on there; nothing for the incumbent, which is one side of the gain."""
        if any(candidate == block.default for block in self._context.plan.blocks if block.is_incumbent):
            return None
        return terms_for(candidate.engine, self.trials, self._context.scenario, self._context.earlier, machine)

    def _judged(self, candidate: Candidate) -> Trial | None:
        """The trial whose quality `candidate` inherits; None where no finalist would be judged itself afterwards."""
        confirm = self._limits.confirm
        if not (confirm.finalists and confirm.repetitions):
            return None
        block = next(block for block in self._context.plan.blocks if candidate.block == block.block)
        return judged_before(candidate, self.trials, block.changes_answers)

    def _skip(self, candidate: Candidate, why: str) -> None:
        number = next_number(self.trials)
        trial = Trial(
            trial_id=f"t{number:04d}-{candidate.candidate_id}",
            number=number,
            candidate=candidate,
            outcome="skipped",
            reason=why,
        )
        self._keep(trial)
        self._proposals.learn(trial)
        self._context.on_event(self.event("skipped", trial=trial))

    def _keep(self, trial: Trial) -> None:
        self._context.record_trial(trial)
        self.trials.append(trial)
        self._study.add(trial)

    def _mark(self) -> None:
        """Mark the trials of machines that were set aside since."""
        unranked = self._context.places.set_aside
        if unranked != self._unranked:
            self._unranked = dict(unranked)
            self.trials = [marked(trial, unranked) for trial in self.trials]

    def _learn_anew(self) -> None:
        """Propose by the trials as they count now, where machines were set aside or compared since, as a resumed search
        would."""
        compared = dict(self._context.places.set_aside), dict(self._context.places.scales)
        if compared == self._compared:
            return
        self._compared = compared
        self._proposals = Proposals(self._context.plan, self._context.scenario, self._context.first)
        for trial in first_measurements(self._comparable()):
            self._proposals.learn(trial)

    def _comparable(self) -> Sequence[Trial]:
        """The trials as machines of equal speed would have measured them: what finalists are chosen by."""
        scales = self._context.places.scales
        return [scaled(trial, scales, self._goals.figures) for trial in without_void_block(self.trials)]

    def _measured(self) -> int:
        return sum(trial.outcome != "skipped" for trial in first_measurements(self.trials))

    def _reserve_s(self, candidate: Candidate) -> float:
        """What measuring the present finalists again would take; nothing is kept back from a block's first trial,
        since an engine that was never measured is the larger gap."""
        if any(candidate == block.default for block in self._context.plan.blocks):
            return 0.0
        left = remaining(self._comparable(), self._context.scenario)
        return self._verification_s() + sum(self._budget.expected_s(candidate.engine) for candidate, _ in left)

    def _verification_s(self) -> float:
        """What a launch of the written file would take: as long as a trial of the engine that leads, else of any."""
        if not self._context.is_verified:
            return 0.0
        leads = finalists(self._comparable(), self._context.scenario)
        return self._budget.expected_s(leads[0].engine if leads else "")


def _machines(trials: Iterable[Trial]) -> frozenset[str]:
    return frozenset(trial.machine for trial in trials)
