"""The best measured candidate that one container can serve, and what it costs against the best of all."""

from __future__ import annotations

from dataclasses import replace

from harness.choose.goals import run_goals
from harness.choose.recommendation import choose
from harness.errors import MeasurementInvalid, UsageError
from harness.measure.metrics import metric_of
from harness.properties.containers import parse_container
from harness.properties.render import Source, inside_the_endpoint, unavailable
from harness.recommendation import Recommendation
from harness.records import Trial
from harness.store.reader import Run
from harness.wording import claim, label


def choose_for(run: Run, container: str) -> tuple[Recommendation, str]:
    """The recommendation for `container`, and a sentence on what it gives up; '' where it is the best of all.

    Raises MeasurementInvalid when nothing feasible was measured, UsageError when the container can serve none of it.
    """
    best = choose(run)
    reason = _why_not(run, best.trial, container)
    if not reason:
        return best, ""
    servable = tuple(trial for trial in run.trials if not _why_not(run, trial, container))
    try:
        found = choose(replace(run, trials=servable))
    except MeasurementInvalid as error:
        raise UsageError(f"--container {container}: cannot serve {label(best.trial.candidate)}: {reason}") from error
    metric = run_goals(run).objectives[0].metric
    return found, (
        f"{container} cannot serve the best of all, {label(best.trial.candidate)}: {reason}. The best measured "
        f"candidate that it can serve is {label(found.trial.candidate)}: {_compared(metric, found.trial, best.trial)}"
    )


def _why_not(run: Run, trial: Trial, container: str) -> str:
    target = parse_container(container)
    if target.is_own:
        return ""
    source = inside_the_endpoint(Source(run_name=run.root.name, manifest=run.manifest, trial=trial))
    return unavailable(source.trial.candidate, target, is_decoder=source.is_decoder)


def _compared(name: str, one: Trial, best: Trial) -> str:
    """'latency_p50_ms 20 ms against 15 ms (+33 %)'."""
    mine, other = metric_of(one, name), metric_of(best, name)
    if mine is None or other is None or not other.value:
        return f"{name} was not measured for both"
    return f"{name} {claim(mine)} against {claim(other)} ({(mine.value - other.value) / other.value:+.1%})"
