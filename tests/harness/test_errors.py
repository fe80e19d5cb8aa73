"""The error tree: every engine error has a trial outcome, every class its exit code."""

from __future__ import annotations

from typing import get_args

import pytest

from engines import errors as engine_errors
from harness import errors
from harness.records import TrialOutcome


def _engine_errors() -> list[type[engine_errors.EngineError]]:
    found = [
        c for c in vars(engine_errors).values() if isinstance(c, type) and issubclass(c, engine_errors.EngineError)
    ]
    return [c for c in found if c is not engine_errors.EngineError]


@pytest.mark.parametrize("error", _engine_errors())
def test_every_engine_error_means_a_trial_outcome(error: type[engine_errors.EngineError]) -> None:
    assert errors.outcome_of(error("why")) in get_args(TrialOutcome)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.GateFailed, 1),
        (errors.UsageError, 2),
        (errors.ScenarioError, 2),
        (errors.NothingToWrite, 2),
        (errors.EnvironmentFault, 3),
        (errors.MeasurementInvalid, 4),
        (errors.Interrupted, 130),
    ],
)
def test_exit_codes_are_the_documented_ones(error: type[errors.DynoError], exit_code: int) -> None:
    assert error.exit_code == exit_code
