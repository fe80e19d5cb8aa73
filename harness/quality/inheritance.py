"""Quality judged once per numeric path: candidates that differ in scheduling alone give the same answers.

A numeric path is what decides the answers: engine, environment, and the axes and options that are not known to change
scheduling alone. The table of axes (engines/setting.py) and `Capabilities.changes_answers` declare which these are; a
conformance test compares the answers of each declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from engines.api import EngineFacts
from engines.setting import AXES, OptionValue
from harness.records import Candidate, QualityReport, Trial

_SCHEDULING = frozenset(axis.name for axis in AXES if axis.is_scheduling)

Declared = Mapping[str, tuple[str, ...]]
"""Capabilities.changes_answers of one engine."""


def numeric_path(candidate: Candidate, declared: Declared) -> dict[str, OptionValue | None]:
    """Axis -> value for what may change the answers of `candidate`; equal for candidates that answer the same."""
    return {name: value for name, value in candidate.axes().items() if _is_numeric(name, candidate.dtype, declared)}


def judged_before(candidate: Candidate, trials: Iterable[Trial], declared: Declared) -> Trial | None:
    """The first of `trials` whose own answers were judged on the numeric path of `candidate`; None where there is none.

    'Broken' is not passed on: it may be the fault of one launch.
    """
    path = numeric_path(candidate, declared)
    return next(
        (
            trial
            for trial in trials
            if trial.has_numbers
            and trial.quality is not None
            and trial.is_judged
            and trial.quality.verdict != "Broken"
            and numeric_path(trial.candidate, declared) == path
        ),
        None,
    )


def inherited(origin: Trial, facts: EngineFacts) -> QualityReport | None:
    """The report of `origin` for an engine that reports `facts`; None where it computes in something else, or another
    version does."""
    report = origin.quality
    same = (origin.effective_dtype, dict(origin.versions)) == (facts.effective_dtype, dict(facts.versions))
    if report is None or not same:
        return None
    reason = f"inherited from {origin.trial_id}, which computes the same answers: {report.reason}"
    return replace(report, reason=reason, inherited_from=origin.trial_id)


def _is_numeric(name: str, dtype: str, declared: Declared) -> bool:
    return dtype in declared[name] if name in declared else name not in _SCHEDULING
