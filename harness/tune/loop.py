"""The search loop: propose a candidate, run its trial, record, learn; then the race of the finalists.

Every finished trial is recorded before anything learns from it, so a kill at any moment loses the trial in flight and
nothing else; the next session replays the recorded trials and continues as the first would have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from harness.choose.goals import goals_of
from harness.errors import Interrupted
from harness.quality.inheritance import judged_before
from harness.records import Candidate, Trial, next_number
from harness.tune.budget import Budget, stored_duration_s
from harness.tune.expected_gain import ENOUGH_FRAC, expected_gain_frac
from harness.tune.finalists import finalists, first_measurements, remaining
from harness.tune.implausible import implausible
from harness.tune.memory_model import why_too_large
from harness.tune.sampler import Proposals, StudyRecord
from harness.tune.search_records import SearchContext, SearchEvent, SearchResult, StopKind
from harness.tune.surrogate import Distances
from harness.units import NS_PER_S


def search(context: SearchContext) -> SearchResult:
    """Measure candidates until trials, minutes or the space end or the next one should gain too little, then the
    finalists again; at least one is measured.

    Ctrl-C ends the search with stop 'interrupted', a trial in flight recorded as such; every other exception of
    `run_trial` passes through, with all finished trials recorded.
    """
    session = _Session(context)
    try:
        stop, reason = session.explore()
        if stop != "interrupted":
            stop, reason = session.confirm(stop, reason)
    except KeyboardInterrupt:
        stop, reason = "interrupted", "interrupted by the user between trials"
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
        self._proposals = Proposals(context.plan, context.scenario, context.first)
        for trial in first_measurements(context.done):
            self._proposals.learn(trial)
        spent_s = context.spent_before_s + stored_duration_s(context.done)
        self._budget = Budget(self._limits.max_minutes * 60, context.clock, spent_s)
        for trial in context.done:
            if trial.outcome not in ("interrupted", "skipped"):
                self._budget.note(trial, trial.duration_s)

    def explore(self) -> tuple[StopKind, str]:
        """Measure proposed candidates until something ends it; returns what and why."""
        while True:
            candidate = self._proposals.next()
            if candidate is None:
                return (
                    "exhausted",
                    f"space exhausted: each of its {self._context.plan.size} candidates measured or skipped",
                )
            measured = self._measured()
            if measured >= self._limits.trials:
                return "budget", f"trial budget: {measured} of {self._limits.trials} candidates measured"
            if (enough := self._why_enough()) is not None:
                return "converged", enough
            if (why := self._why_not(candidate)) is not None:
                self._skip(candidate, why)
                continue
            late = self._budget.why_stop(candidate, self._reserve_s(candidate))
            if late is not None and measured > 0:
                return "budget", late
            if (broke := self._context.spending.why_stop(candidate)) is not None:
                return "budget", broke
            trial = self._launch(candidate)
            if trial.outcome == "interrupted":
                return "interrupted", f"interrupted by the user in trial {trial.trial_id}"
            self._proposals.learn(trial)

    def confirm(self, stop: StopKind, reason: str) -> tuple[StopKind, str]:
        """Measure the finalists again, in turns, while time allows."""
        for candidate, repetition in remaining(self.trials, self._context.scenario):
            late = self._budget.why_stop(candidate, self._verification_s()) or self._context.spending.why_stop(
                candidate
            )
            if late is not None:
                return stop, f"{reason}; finalists not all measured again ({late})"
            trial = self._launch(candidate, repetition)
            if trial.outcome == "interrupted":
                return "interrupted", f"interrupted by the user in trial {trial.trial_id}, a repetition"
        again = len(finalists(self.trials, self._context.scenario)) * self._limits.confirm.repetitions
        return stop, f"{reason}; finalists measured again ({again} trials)" if again else reason

    def event(
        self, kind: Literal["launching", "finished", "skipped", "stopped"], trial: Trial | None = None, text: str = ""
    ) -> SearchEvent:
        """An event with the counters of now."""
        return SearchEvent(kind=kind, measured=self._measured(), spent_s=self._budget.spent_s(), trial=trial, text=text)

    def _launch(self, candidate: Candidate, repetition: int = 0) -> Trial:
        number = next_number(self.trials)
        launching = self.event("launching", text=f"repetition {repetition}" if repetition else "")
        expected_s = self._budget.expected_s(candidate.engine)
        self._context.on_event(replace(launching, candidate=candidate, number=number, expected_s=expected_s))
        begin_ns = self._context.clock.now_ns()
        try:
            judged = None if repetition else self._judged(candidate)
            trial = self._context.run_trial(candidate, number, judged=judged, order=repetition)
        except (Interrupted, KeyboardInterrupt) as error:
            trial = _interrupted_trial(error, candidate, number)
        if repetition:
            note = f"repetition {repetition}: a finalist measured again"
            trial = replace(trial, repetition=repetition, notes=(*trial.notes, note))
        self._keep(trial)
        if trial.outcome != "interrupted":
            self._budget.note(trial, (self._context.clock.now_ns() - begin_ns) / NS_PER_S)
        self._context.on_event(self.event("finished", trial=trial))
        return trial

    def _why_not(self, candidate: Candidate) -> str | None:
        """Why launching `candidate` is no use, by what earlier launches showed."""
        if not self._context.prunes:
            return None
        return implausible(candidate, self.trials) or why_too_large(candidate, self.trials, self._context.memory_mib)

    def _why_enough(self) -> str | None:
        """None while the next trial should gain something; else the sentence. A grid is measured whole."""
        if self._limits.sampler == "grid" or self._proposals.is_at_first:
            return None
        first = first_measurements(self.trials)
        seen = {trial.candidate.candidate_id for trial in first}
        left = [each for each in self._context.plan.candidates if each.candidate_id not in seen]
        gain = expected_gain_frac(self._distances, self._goals, first, left)
        if gain is None or gain >= ENOUGH_FRAC:
            return None
        return f"the next trial should gain less than {100 * ENOUGH_FRAC:g} % ({self._measured()} candidates measured)"

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

    def _measured(self) -> int:
        return sum(trial.outcome != "skipped" for trial in first_measurements(self.trials))

    def _reserve_s(self, candidate: Candidate) -> float:
        """What measuring the present finalists again would take; nothing is kept back from a block's first trial,
        since an engine that was never measured is the larger gap."""
        if any(candidate == block.default for block in self._context.plan.blocks):
            return 0.0
        left = remaining(self.trials, self._context.scenario)
        return self._verification_s() + sum(self._budget.expected_s(candidate.engine) for candidate, _ in left)

    def _verification_s(self) -> float:
        """What a launch of the written file would take: as long as a trial of the engine that leads, else of any."""
        if not self._context.is_verified:
            return 0.0
        leads = finalists(self.trials, self._context.scenario)
        return self._budget.expected_s(leads[0].engine if leads else "")


def _interrupted_trial(error: BaseException, candidate: Candidate, number: int) -> Trial:
    """The record that the interruption carries, or a bare one."""
    carried = getattr(error, "trial", None)
    if isinstance(carried, Trial):
        return carried
    return Trial(
        trial_id=f"t{number:04d}-{candidate.candidate_id}",
        number=number,
        candidate=candidate,
        outcome="interrupted",
        reason="stopped by the user",
    )
