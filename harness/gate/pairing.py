"""Pairing for the gate: which candidates of two runs belong together, and which of their launches count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.records import NOT_MEASURED, Candidate, Trial, TrialOutcome
from harness.store.reader import Run
from harness.wording import label

FindingVerdict = Literal["regressed", "cannot tell", "note"]
FAILED: tuple[TrialOutcome, ...] = (
    "launch_failed", "crashed", "out_of_memory", "timed_out", "infeasible", "skipped",
)  # fmt: skip
"""Outcomes that depend on the code; client_limited and interrupted depend on the measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A verdict about a whole candidate, before any number: it fails now, or was not measured."""

    candidate_id: str
    label: str
    verdict: FindingVerdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One candidate measured on both sides: its finished launches. `baseline` holds one group per baseline run."""

    candidate_id: str
    label: str
    baseline: tuple[tuple[Trial, ...], ...]
    candidate: tuple[Trial, ...]


def match(
    baselines: Sequence[Run], candidate: Run, *, wants_all: bool
) -> tuple[tuple[Match, ...], tuple[Finding, ...]]:
    """The candidates measured on both sides, and every finding, in the baseline's order."""
    before = [_by_candidate(run) for run in baselines]
    after = _by_candidate(candidate)
    order = {key: trials[0].candidate for group in before for key, trials in group.items()}
    matches, findings = [], []
    for key, point in order.items():
        groups = tuple(tuple(t for t in group.get(key, ()) if t.outcome == "ok") for group in before)
        now = after.get(key, ())
        good = tuple(trial for trial in now if trial.outcome == "ok")
        finding = _finding(point, [t for group in before for t in group.get(key, ())], now, wants_all=wants_all)
        if finding is not None:
            findings.append(finding)
        if good and any(groups):
            matches.append(Match(candidate_id=key, label=label(point), baseline=groups, candidate=good))
    findings += [_new(trials) for key, trials in after.items() if key not in order]
    return tuple(matches), tuple(findings)


def _by_candidate(run: Run) -> dict[str, tuple[Trial, ...]]:
    groups: dict[str, tuple[Trial, ...]] = {}
    for trial in run.trials:
        if trial.outcome not in NOT_MEASURED:
            key = trial.candidate.candidate_id
            groups[key] = (*groups.get(key, ()), trial)
    return groups


def _finding(point: Candidate, before: Sequence[Trial], now: Sequence[Trial], *, wants_all: bool) -> Finding | None:
    worked = [trial for trial in before if trial.outcome == "ok"]
    failed_before = [trial for trial in before if trial.outcome in FAILED]
    failed_now = [trial for trial in now if trial.outcome in FAILED]
    verdict: FindingVerdict | None = None
    if not worked and not failed_before:
        verdict, reason = "cannot tell", f"no usable launch in the baseline ({_outcomes(before)}); measure it again"
    elif not worked:
        is_fixed = any(trial.outcome == "ok" for trial in now)
        verdict, reason = "note", f"it did not work in the baseline either ({_outcomes(before)})"
        if is_fixed:
            reason = f"it works now; in the baseline it did not ({_outcomes(before)})"
    elif failed_now and not failed_before:
        verdict = "regressed"
        reason = (
            f"new failure: {len(failed_now)} of {len(now)} launches ended {_outcomes(failed_now)}, none of "
            f"{len(before)} in the baseline; the first: {_first_line(failed_now[0].reason)}"
        )
    elif failed_now:
        verdict = "note"
        reason = (
            f"{len(failed_now)} of {len(now)} launches failed, {len(failed_before)} of {len(before)} in the baseline"
        )
    elif not now and wants_all:
        verdict = "cannot tell"
        reason = "not measured in the candidate run; measure it, or write 'candidates: common' in the rules"
    elif not now:
        verdict, reason = "note", "not measured in the candidate run"
    elif not any(trial.outcome == "ok" for trial in now):
        verdict, reason = "cannot tell", f"{_outcomes(now)}: {_first_line(now[0].reason)}"
    if verdict is None:
        return None
    return Finding(candidate_id=point.candidate_id, label=label(point), verdict=verdict, reason=reason)


def _new(trials: Sequence[Trial]) -> Finding:
    point = trials[0].candidate
    return Finding(
        candidate_id=point.candidate_id, label=label(point), verdict="note", reason="not in the baseline; not judged"
    )


def _outcomes(trials: Sequence[Trial]) -> str:
    return ", ".join(sorted(Counter(trial.outcome for trial in trials)))


def _first_line(reason: str) -> str:
    return reason.strip().splitlines()[0] if reason.strip() else "no reason stored"
