"""The error tree of the tool: every error a user can meet, each class with its exit code.

DynoError
├── UsageError (2)            the command line cannot be understood
│   ├── ScenarioError (2)     the scenario file is wrong (message starts with file:line)
│   ├── StaleScenario (2)     a stored run's scenario is no longer accepted by this version
│   └── NothingToWrite (2)    what was measured is configured elsewhere, no serving.properties can express it
├── EnvironmentFault (3)      this machine cannot do it: engine missing, model damaged, port taken, disk full
├── MeasurementInvalid (4)    it ran, but the numbers may not be used
├── GateFailed (1)            a gate rule was broken
└── Interrupted (130)         the user stopped it; what was measured is kept

Every message states where, what was expected, what came, and what to do next.
"""

from __future__ import annotations

from engines import errors as engine_errors
from harness.records import TrialOutcome


class DynoError(Exception):
    """Base of every error shown to the user as one sentence."""

    exit_code = 3


class UsageError(DynoError):
    """The command line cannot be understood."""

    exit_code = 2


class ScenarioError(UsageError):
    """The scenario file is wrong; the message starts with file:line."""


class StaleScenario(UsageError):
    """A stored run's scenario is no longer accepted by this version; the message explains why."""


class NothingToWrite(UsageError):
    """What was measured is configured elsewhere; no serving.properties can express it."""


class EnvironmentFault(DynoError):
    """This machine cannot do it; the message states what to install, free or repair."""

    exit_code = 3


class MeasurementInvalid(DynoError):
    """It ran, but the numbers may not be used; the message explains why."""

    exit_code = 4


class GateFailed(DynoError):
    """A gate rule was broken."""

    exit_code = 1


class Interrupted(DynoError):
    """The user stopped it; what was measured so far is kept."""

    exit_code = 130


OUTCOME_OF: dict[type[engine_errors.EngineError], TrialOutcome] = {
    engine_errors.Unavailable: "infeasible",
    engine_errors.SpecInvalid: "infeasible",
    engine_errors.ModelInvalid: "launch_failed",
    engine_errors.PortTaken: "launch_failed",
    engine_errors.RequestInvalid: "launch_failed",
    engine_errors.LaunchFailed: "launch_failed",
    engine_errors.OutOfMemory: "out_of_memory",
    engine_errors.NotReady: "timed_out",
}
"""Engine error -> trial outcome, at the launch boundary. A test proves that every engine error has its row."""


def outcome_of(error: engine_errors.EngineError) -> TrialOutcome:
    """The trial outcome that `error` means."""
    return next(OUTCOME_OF[kind] for kind in type(error).__mro__ if kind in OUTCOME_OF)
