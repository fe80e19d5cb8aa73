"""Export to MLflow: an experiment of the scenario's name, in it a run for each trial."""

from __future__ import annotations

import re
import time
from typing import Any

from harness.errors import EnvironmentFault
from harness.export.numbers import RunNumbers, TrialNumbers

INSTALL = "pip install 'dynamometer[mlflow]'"
_LONGEST = 500
"""Characters of a parameter that every MLflow store takes."""


def send(numbers: RunNumbers, uri: str | None, *, with_texts: bool) -> str:
    """Where the trials are now. `uri` is a tracking server, a database or a folder (None: MLflow's own default).

    Raises EnvironmentFault where MLflow is not installed or does not take them."""
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise EnvironmentFault(f"--to mlflow needs MLflow's client: {INSTALL}") from error
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(numbers.scenario)
        experiment = client.create_experiment(numbers.scenario) if found is None else found.experiment_id
        for trial in numbers.trials:
            _send(client, experiment, numbers, trial, with_texts=with_texts)
    except (MlflowException, OSError) as error:
        why = str(error).partition("\n")[0][:300]
        raise EnvironmentFault(
            f"{uri or 'MLflow'}: did not take the run ({why}); check --uri and its server"
        ) from error
    return f"experiment {numbers.scenario!r}, {len(numbers.trials)} runs"


def _send(client: Any, experiment: str, numbers: RunNumbers, trial: TrialNumbers, *, with_texts: bool) -> None:
    from mlflow.entities import Metric, Param, RunTag

    at_ms = int(time.time() * 1000)
    made = client.create_run(experiment, run_name=f"{numbers.run} {trial.trial_id}")
    metrics = []
    for name, metric in trial.metrics.items():
        ends = {"": metric.value, ".low": metric.low, ".high": metric.high}
        for end, value in ends.items():
            if value is not None:
                metrics.append(Metric(f"{_key(name)}{end}", value, at_ms, 0))
    facts = {**numbers.facts, **trial.facts, "run": numbers.run, "trial": trial.trial_id}
    client.log_batch(
        made.info.run_id,
        metrics=metrics,
        params=[Param(_key(name), value[:_LONGEST]) for name, value in trial.axes.items()],
        tags=[RunTag(f"dyno.{name}", value) for name, value in facts.items()],
    )
    if with_texts and trial.answers is not None:
        client.log_artifact(made.info.run_id, str(trial.answers), "answers")
    client.set_terminated(made.info.run_id)


def _key(name: str) -> str:
    """A name of letters that MLflow takes: 'latency_p99_ms@users=16' -> 'latency_p99_ms/users_16'."""
    return re.sub(r"[^\w.\-/ ]", "_", name.replace("@", "/"))
