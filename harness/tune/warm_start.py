"""The order that earlier runs suggest for the first proposals (`--warm-start`), and nothing else.

A prior is no answer: what it puts first is measured like every other candidate. It removes none: what it puts last is
proposed by the sampler as if there had been no prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.choose.goals import Goals, goals_of
from harness.errors import UsageError
from harness.records import Candidate, Trial
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import SpacePlan
from harness.store.reader import Run, read_run
from harness.tune.earlier_runs import Place, model_of
from harness.tune.finalists import whole_measurements
from harness.tune.surrogate import Distances, fitted

OTHER_FAMILY = 4.0
"""By how much more a trial of another model family is distrusted: a factor on the variance of its noise."""
OTHER_MACHINE = 4.0
"""The same for a trial on another class of machine (CPU model and instruction sets)."""
FAILED_LOG = math.log(2.0)
"""What failed or broke a constraint counts as this much worse than the worst that was measured."""
FIRST_FRAC = 1 / 3
"""Share of the trials whose order the prior decides; as many as are drawn at random before it has learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """An earlier trial: the logarithm of its cost over that of its run's best, and a factor on how noisy that is."""

    candidate: Candidate
    cost: float
    noise: float


def read_hints(roots: Sequence[Path], resolved: ResolvedScenario, here: Place, plan: SpacePlan) -> tuple[Hint, ...]:
    """The trials of earlier runs that `plan` can learn from.

    Raises UsageError for a run of another kind of model, without a value of the objective, or without an engine of the
    plan; and what reading a damaged run raises.
    """
    return tuple(hint for root in roots for hint in _hints(read_run(root), goals_of(resolved.scenario), here, plan))


def prior_order(plan: SpacePlan, hints: Sequence[Hint], trials: int) -> tuple[Candidate, ...]:
    """The candidates to measure first, the most promising first: FIRST_FRAC of `trials`, at least one of them."""
    if not hints:
        return ()
    distances = Distances(plan.candidates)
    costs = [hint.cost for hint in hints]
    surrogate = fitted(distances, [hint.candidate for hint in hints], costs, [hint.noise for hint in hints])
    expected = dict(zip(range(plan.size), surrogate.predict(plan.candidates)[0].tolist(), strict=True))
    order = sorted(expected, key=lambda index: (round(expected[index], 9), index))
    return tuple(plan.candidates[index] for index in order[: max(1, round(FIRST_FRAC * trials))])


def _hints(run: Run, goals: Goals, here: Place, plan: SpacePlan) -> list[Hint]:
    noise = _noise(run, here)
    metric = goals.objectives[0]
    engines = {block.engine for block in plan.blocks}
    trials = [trial for trial in whole_measurements(run.trials) if trial.candidate.engine in engines]
    if not trials:
        named = ", ".join(sorted(engines))
        raise UsageError(f"--warm-start {run.root}: expected a trial of {named}, got none; name a run that tried one")
    values = {trial.trial_id: goals.costs(trial)[0] * (1 if metric.is_minimized else -1) for trial in trials}
    good = {key: value for key, value in values.items() if math.isfinite(value) and value > 0}
    if not good:
        raise UsageError(
            f"--warm-start {run.root}: expected a trial with a value of {metric.metric}, the objective here, got none; "
            "name a run that measured it"
        )
    sign = 1 if metric.is_minimized else -1
    logs = {key: sign * math.log(value) for key, value in good.items()}
    best, worst = min(logs.values()), max(logs.values())

    def cost(trial: Trial) -> float:
        is_usable = trial.is_feasible and trial.trial_id in logs
        return (logs[trial.trial_id] if is_usable else worst + FAILED_LOG) - best

    return [Hint(candidate=trial.candidate, cost=cost(trial), noise=noise) for trial in trials]


def _noise(run: Run, here: Place) -> float:
    """How much the trials of a run are distrusted. Raises UsageError for another kind of model."""
    _, model, kind = model_of(run)
    if kind is not None and here.kind is not None and kind.name != here.kind.name:
        raise UsageError(
            f"--warm-start {run.root}: expected a run of a {here.kind.name} model, got {model} ({kind.name}, "
            f"{kind.model_type}); nothing is learned here from candidates of another kind"
        )
    is_machine = _class(run.manifest.machine) == _class(here.machine)
    return (1.0 if here.is_family(model, kind) else OTHER_FAMILY) * (1.0 if is_machine else OTHER_MACHINE)


def _class(machine: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(str(machine.get(fact)) for fact in ("cpu_model", "cpu_flags", "split_into"))
