"""The recommendation of a stored run: the chosen candidate, and why each other one lost."""

from __future__ import annotations

from harness.choose.decide import decide
from harness.choose.explain import losses, margin
from harness.choose.goals import run_goals
from harness.records import Recommendation
from harness.store.reader import Run


def choose(run: Run) -> Recommendation:
    """The recommendation of a stored run. Raises MeasurementInvalid when nothing feasible was measured, naming what
    came nearest."""
    choice = decide(run.trials, run_goals(run))
    runner_up = choice.runner_up
    return Recommendation(
        run_dir=run.root,
        trial=choice.chosen.evidence(choice.goals),
        runner_up=runner_up.evidence(choice.goals) if runner_up is not None else None,
        is_tie=bool(choice.tied),
        margin=margin(choice),
        losses=losses(choice),
    )
