"""From a stored run to its recommendation: the choice, its margin, its gain, and the reasons against the others."""

from __future__ import annotations

from typing import Any

from harness.choose.decide import Choice, decide
from harness.choose.explain import gain, losses, margin
from harness.choose.goals import run_goals
from harness.choose.paired import launch_spread_frac
from harness.errors import MeasurementInvalid
from harness.recommendation import Recommendation
from harness.store.formats import Imported
from harness.store.reader import Run


def choose(run: Run) -> Recommendation:
    """The recommendation of a stored run. Raises MeasurementInvalid when nothing feasible was measured, naming what
    came nearest."""
    if run.manifest.imported is not None:
        raise MeasurementInvalid(not_chosen(run.manifest.imported))
    choice = decide(run.trials, run_goals(run))
    runner_up = choice.runner_up
    return Recommendation(
        run_dir=run.root,
        trial=choice.chosen.evidence(choice.goals),
        runner_up=runner_up.evidence(choice.goals) if runner_up is not None else None,
        is_tie=bool(choice.tied),
        margin=margin(choice),
        losses=losses(choice),
        gain=_gain(run, choice),
        launch_spread_frac=launch_spread_frac(choice.chosen, choice.goals),
        runner_up_chance=None if runner_up is None else choice.chance_better(runner_up),
    )


def not_chosen(imported: Imported) -> str:
    """Why nothing is recommended from an imported run."""
    return (
        f"imported from {imported.by}, not measured by dyno: nothing to choose between here; compare two imported runs "
        "with dyno report RUN RUN, judge one by another with dyno gate"
    )


def _gain(run: Run, choice: Choice) -> str:
    """The gain over the block of the scenario that is marked as the incumbent."""
    space: Any = run.manifest.scenario.get("space", ())
    marks = [bool(block.get("incumbent")) for block in space]
    if True not in marks:
        return ""
    return gain(choice, [one for one in choice.everyone if one.candidate.block == marks.index(True)])
