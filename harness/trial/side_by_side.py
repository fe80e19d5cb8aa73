"""Side-by-side trials for the gate: another checkout and this one in turns, or a stored run's candidates again.

Two launches of one server differ by more than their requests suggest, and a machine drifts. So both versions serve the
same candidates in the order ABBA, one right after the other, and each pair gives one difference. The judging is
planned: a fixed number of looks (`LOOKS`), the levels shared among them, so that looking early costs no false alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

from engines.api import QueueOrder
from engines.setting import OptionValue
from harness.clock import Clock, SystemClock
from harness.errors import EnvironmentFault, UsageError
from harness.gate.gate import gate
from harness.gate.rules import Rules
from harness.gate.verdict import GateResult
from harness.measure.machine.facts import commit_of, git_commit
from harness.records import Candidate, Trial
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import SpacePlan, plan_space, require_candidates
from harness.space.capabilities import engine_capabilities, model_kind_of, usable_cores
from harness.space.context import most_tokens
from harness.store.disk import write_text
from harness.store.pairs import PAIRS_JSON, Pairs
from harness.store.reader import Run, read_run
from harness.store.run_folder import create_run
from harness.store.writer import RunWriter
from harness.trial.bench import Bench, interrupted
from harness.trial.inputs import Checkout
from harness.trial.progress import Lines
from harness.trial.run import TrialInterrupted
from harness.units import NS_PER_S
from harness.wording import label

LOOKS = ((4, 0.1), (8, 0.2), (16, 0.7))
"""(rounds, share of the error levels) of each look, unless a fixed number of rounds is asked for. 3 degrees of freedom
are the least that call a large change; after 16 the interval shrinks by 3 % per further round. Early looks are for
large changes and get little, so that the last one loses hardly any power."""
MAX_CANDIDATES = 8
"""Each candidate costs two launches per round; more of them are a search, not a gate."""
DEFAULT_REPETITIONS = 4
"""Launches per candidate when it is measured against a stored run: from there on its own spread is known."""

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked to measure. `repetitions` None: until settled (side by side), else 4."""

    resolved: ResolvedScenario
    results: Path
    repetitions: int | None
    max_minutes: float


def measure_side_by_side(order: Order, baseline_ref: Path, rules: Rules, announce: Announce) -> GateResult:
    """Measure `baseline_ref` and this checkout in turns, store both runs, judge them.

    Raises UsageError when `baseline_ref` is no checkout or the scenario has too many candidates, EnvironmentFault when
    the baseline cannot serve, Interrupted on Ctrl-C (what was measured is kept and can be judged).
    """
    root = baseline_ref.resolve()
    if not (root / "engines" / "server").is_dir():
        raise UsageError(f"--baseline-ref {baseline_ref}: no engines/server in it; name the root of a checkout")
    candidates = _candidates(order.resolved)
    looks = ((order.repetitions, 1.0),) if order.repetitions is not None else LOOKS
    before_run = partial(_new_run, order, commit_of(root), announce, "baseline")
    after_run = partial(_new_run, order, git_commit(), announce, "candidate")
    with (
        # An older checkout knows one order of waiting requests.
        Bench.open(
            order.resolved, before_run, progress=Lines(announce), checkout=_checkout(root), queue_order="fifo"
        ) as before,
        Bench.open(
            order.resolved, after_run, progress=Lines(announce), reference=before.reference, queue_order="fifo"
        ) as after,
    ):
        sides = (Side(bench=before, name="baseline checkout"), Side(bench=after, name="candidate"))
        return judged_in_pairs(sides, candidates, looks, order.max_minutes, rules, announce)


def judged_in_pairs(
    sides: tuple[Side, Side],
    candidates: Sequence[Candidate],
    looks: Sequence[tuple[int, float]],
    max_minutes: float,
    rules: Rules,
    announce: Announce,
) -> GateResult:
    """Both sides launched in turns, stored and judged; `looks` are (rounds, share of the error levels).

    Raises EnvironmentFault when the first side cannot serve, Interrupted on Ctrl-C.
    """
    pairing = _Pairing(sides=sides, rules=rules, clock=SystemClock(), announce=announce)
    return pairing.run(candidates, looks, max_minutes)


def measure_again(order: Order, baseline: Run, announce: Announce) -> Path:
    """Measure the candidates that worked in `baseline` now, in turns, `repetitions` times each; the new run's folder.

    Raises UsageError when the scenario holds none of them, Interrupted on Ctrl-C.
    """
    known = {trial.candidate.candidate_id for trial in baseline.trials if trial.outcome == "ok"}
    planned = _plan(order.resolved).candidates
    candidates = tuple(each for each in planned if each.candidate_id in known)
    if not candidates:
        raise UsageError(
            f"{order.resolved.path}: none of its {len(planned)} candidates worked in {baseline.root}; "
            "measure the scenario that the baseline was measured with"
        )
    repetitions = order.repetitions or DEFAULT_REPETITIONS
    new_run = partial(_new_run, order, git_commit(), announce, "candidate")
    measured = {trial.queue_order for trial in baseline.trials} - {"fifo"}
    queue_order: QueueOrder = next((each for each in get_args(QueueOrder) if each in measured), "fifo")
    with Bench.open(order.resolved, new_run, progress=Lines(announce), queue_order=queue_order) as bench:
        budget = _Budget(clock=SystemClock(), max_minutes=order.max_minutes)
        side = Side(bench=bench, name="candidate")
        for turn in range(repetitions):
            if not budget.has_time_for_another(turn):
                announce(
                    f"stopped after {turn} of {repetitions} repetitions: {order.max_minutes:g} minutes are used up"
                )
                break
            for candidate in candidates if turn % 2 == 0 else reversed(candidates):
                _run_one(side, candidate, turn + 1, announce, f"repetition {turn + 1} of {repetitions}")
        return bench.writer.layout.root


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a comparison. `launched_as` is how its bench launches a candidate of both, `unstored` options that no
    record may hold, `versions` what is stored beside the engine's own."""

    bench: Bench
    name: str
    launched_as: Callable[[Candidate], Candidate] = lambda candidate: candidate
    unstored: Mapping[str, OptionValue] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Budget:
    """Minutes that measuring may take; the next round is expected to take as long as the mean of those before."""

    clock: Clock
    max_minutes: float
    start_ns: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "start_ns", self.clock.now_ns())

    def has_time_for_another(self, rounds: int) -> bool:
        """Whether round number `rounds` (from 0) may begin; the first always may."""
        spent_s = (self.clock.now_ns() - self.start_ns) / NS_PER_S
        return rounds == 0 or spent_s * (rounds + 1) / rounds <= self.max_minutes * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairing:
    """Both sides of a side-by-side measurement: index 0 is the baseline, 1 the candidate."""

    sides: tuple[Side, Side]
    rules: Rules
    clock: Clock
    announce: Announce

    def run(
        self, candidates: Sequence[Candidate], looks: Sequence[tuple[int, float]], max_minutes: float
    ) -> GateResult:
        """Rounds of pairs until a look settles it, the rounds are done, or the minutes are."""
        budget = _Budget(clock=self.clock, max_minutes=max_minutes)
        shares, last = dict(looks), looks[-1][0]
        pairs: list[tuple[str, str]] = []
        for turn in range(last):
            if not budget.has_time_for_another(turn):
                self.announce(f"stopped after {turn} rounds: {max_minutes:g} minutes are used up")
                break
            # Out of time, the next look is taken early: its share is there to be spent.
            share = next(share for rounds, share in looks if turn < rounds)
            for candidate in candidates if turn % 2 == 0 else reversed(candidates):
                pair = self._pair(candidate, turn, last)
                pairs.append((pair[0].trial_id, pair[1].trial_id))
                self._keep(pairs, share)
            if turn + 1 in shares or self._has_new_failure():
                result = self._judge()
                self.announce(f"after {turn + 1} rounds: {result.headline}")
                if result.verdict != "cannot tell":
                    break
        return self._judge()

    def _pair(self, candidate: Candidate, turn: int, turns: int) -> tuple[Trial, Trial]:
        """One launch of each side, the order turned round in every second pair (ABBA)."""
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        trials: dict[int, Trial] = {}
        for side in order:
            where = f"round {turn + 1} of at most {turns}, {('baseline', 'candidate')[side]}"
            trials[side] = _run_one(self.sides[side], candidate, turn + 1, self.announce, where)
        if turn == 0 and trials[0].outcome not in ("ok", "client_limited"):
            raise EnvironmentFault(
                f"the {self.sides[0].name} cannot serve {label(candidate)}: {trials[0].outcome}: {trials[0].reason}"
            )
        return trials[0], trials[1]

    def _keep(self, pairs: Sequence[tuple[str, str]], share: float) -> None:
        stored = Pairs(baseline=self.sides[0].bench.writer.layout.root.name, share=share, trial_ids=tuple(pairs))
        write_text(self.sides[1].bench.writer.layout.root / PAIRS_JSON, stored.as_text())

    def _has_new_failure(self) -> bool:
        return any(finding.verdict == "regressed" for finding in self._judge().findings)

    def _judge(self) -> GateResult:
        before, after = (read_run(side.bench.writer.layout.root) for side in self.sides)
        return gate([before], after, self.rules)


def _run_one(side: Side, candidate: Candidate, number: int, announce: Announce, where: str) -> Trial:
    """One trial, stored as `candidate`'s. Raises Interrupted after storing the record of the trial in flight."""
    writer = side.bench.writer
    try:
        trial = side.bench.run(side.launched_as(candidate), number, unstored=side.unstored)
    except TrialInterrupted as error:
        writer.append_trial(replace(error.trial, candidate=candidate))
        raise interrupted(writer) from error
    trial = replace(trial, candidate=candidate, versions={**trial.versions, **side.versions})
    writer.append_trial(trial)
    metric = trial.summary.metrics.get("latency_p50_ms") if trial.summary is not None else None
    measured = (
        f"p50 {metric.value:.4g} ms" if metric is not None else f"{trial.outcome}: {trial.reason.splitlines()[0]}"
    )
    announce(f"{where}: {label(candidate)}: {measured}")
    return trial


def _plan(resolved: ResolvedScenario) -> SpacePlan:
    kind = model_kind_of(resolved)
    return plan_space(resolved, engine_capabilities, usable_cores(), kind=kind, tokens=most_tokens(resolved, kind))


def _candidates(resolved: ResolvedScenario) -> tuple[Candidate, ...]:
    plan = _plan(resolved)
    require_candidates(plan, resolved)
    if plan.size > MAX_CANDIDATES:
        raise UsageError(
            f"{resolved.path}: {plan.size} candidates, side by side at most {MAX_CANDIDATES}; narrow the space to what "
            "the gate should guard, for instance --set space.0.batch_size=4"
        )
    return plan.candidates


def _checkout(root: Path) -> Checkout:
    """The other checkout, with its own interpreter where it has a virtual environment."""
    python = root / ".venv" / "bin" / "python"
    return Checkout(root=root, python=str(python) if python.exists() else None)


def _new_run(order: Order, commit: str, announce: Announce, side: str) -> RunWriter:
    writer = create_run(order.resolved, order.results, commit)
    announce(f"{side} run {writer.layout.root}")
    return writer
