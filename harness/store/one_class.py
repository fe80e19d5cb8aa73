"""The rule that keeps machines apart: a run folder holds the trials of one machine class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.errors import EnvironmentFault
from harness.measure.machine.machine_class import class_of
from harness.records import Trial
from harness.store.formats import RunManifest


def check_class(root: Path, manifest: RunManifest, trials: Iterable[Trial]) -> None:
    """Raise EnvironmentFault where one of `trials` ran on another machine class than the run in `root`.

    Everything that compares, averages or ranks reads trials from run folders, so nothing mixes classes. Older runs
    state no class of their trials: all ran on the machine of run.json.
    """
    own = class_of(manifest.machine)
    for trial in trials:
        if own and trial.machine_class and trial.machine_class != own:
            raise EnvironmentFault(
                f"{root}: trial {trial.trial_id} ran on machine class {trial.machine_class}, this run is of class "
                f"{own} (its machine is in run.json), and values of two classes are never compared; measure each class "
                "in a separate run"
            )
