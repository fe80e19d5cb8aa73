"""The gate's verdicts from comparisons: pass, regressed, or cannot tell with how many launches would settle it.

Regressed: the worsening is above its limit with the family-wise confidence 1 - false_alarm, Holm (1979) over every
comparison of the gate that has evidence. Pass: it is below its limit with confidence 1 - false_pass; the gate passes
only if all comparisons do, so no correction is due there (intersection-union, Berger 1982). Anything else: cannot tell.
The interval shown has exactly those two ends, so that verdict and interval never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import GateFailed, MeasurementInvalid
from harness.gate.compare import Comparison
from harness.gate.evidence import Evidence, Launches, PairedShares, factor_to_settle
from harness.gate.pairing import Finding
from harness.gate.rules import Rules

Verdict = Literal["pass", "regressed", "cannot tell"]
EXIT_CODES: dict[Verdict, int] = {
    "pass": 0,
    "regressed": GateFailed.exit_code,
    "cannot tell": MeasurementInvalid.exit_code,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class More:
    """What would probably settle a comparison: further launches of each side, and requests of each side in them
    (or prompts, for answers). None: the change is at the limit, no reasonable amount would."""

    launches: int | None
    requests: int | None
    noun: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A comparison and its verdict. `change`, `low`, `high`: relative (log scale: +0.05 is 5 % more) or in the metric's
    unit; signed as the metric moves, not as worse. `level` is the one-sided level that regressed was tested at."""

    comparison: Comparison
    verdict: Verdict
    change: float | None
    low: float | None
    high: float | None
    p: float | None
    level: float | None
    is_better: bool
    reason: str
    more: More | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The answer of the gate and everything behind it."""

    verdict: Verdict
    headline: str
    judged: tuple[Judged, ...]
    findings: tuple[Finding, ...]
    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    baseline: tuple[Path, ...]
    candidate: Path
    rules: Rules

    @property
    def exit_code(self) -> int:
        """0 pass, 1 regressed, 4 cannot tell."""
        return EXIT_CODES[self.verdict]


def judge(comparisons: Sequence[Comparison], rules: Rules, share: float = 1.0) -> tuple[Judged, ...]:
    """The verdict on each comparison. Of several planned looks at growing data each spends its `share` of the error
    levels; the shares sum to 1 (Bonferroni over looks: valid whatever the dependence between them)."""
    false_alarm, false_pass = rules.false_alarm * share, rules.false_pass * share
    levels = holm_levels([_p(comparison) for comparison in comparisons], false_alarm)
    return tuple(_judged(comparison, level, false_pass) for comparison, level in zip(comparisons, levels, strict=True))


def holm_levels(p_values: Sequence[float | None], alpha: float) -> list[float]:
    """The level each test is decided at: the i-th smallest of m p values at alpha / (m - i + 1) as long as all before
    it were rejected; from the first that is not, all at that one's level. Absent tests (None) are not in the family."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    levels = [alpha] * len(p_values)
    divisor, has_stopped = len(order), False
    for rank, (p, place) in enumerate(order):
        if not has_stopped:
            divisor = len(order) - rank
            has_stopped = p > alpha / divisor
        levels[place] = alpha / divisor
    return levels


def _p(comparison: Comparison) -> float | None:
    return None if comparison.evidence is None else comparison.evidence.p_above(comparison.limit)


def _judged(comparison: Comparison, level: float, false_pass: float) -> Judged:
    evidence = comparison.evidence
    if evidence is None:
        return _without_evidence(comparison)
    low, high = evidence.lower(level), evidence.upper(false_pass)
    if low > comparison.limit:
        verdict: Verdict = "regressed"
    elif high <= comparison.limit:
        verdict = "pass"
    else:
        verdict = "cannot tell"
    more = _more(comparison, evidence, false_pass, level) if verdict == "cannot tell" else None
    is_better = verdict == "pass" and high < 0
    ends = sorted(_shown(comparison, bound) for bound in (low, high))
    return Judged(
        comparison=comparison,
        verdict=verdict,
        change=_shown(comparison, evidence.estimate),
        low=ends[0],
        high=ends[1],
        p=evidence.p_above(comparison.limit),
        level=level,
        is_better=is_better,
        reason=_reason(comparison, evidence, verdict, more),
        more=more,
    )


def _without_evidence(comparison: Comparison) -> Judged:
    return Judged(
        comparison=comparison,
        verdict="cannot tell",
        change=None,
        low=None,
        high=None,
        p=None,
        level=None,
        is_better=False,
        reason=comparison.problem,
    )


def _shown(comparison: Comparison, worsening: float) -> float:
    """A worsening as the metric's own change: a ratio minus one, or a difference in its unit."""
    signed = comparison.sign * worsening
    return math.expm1(signed) if comparison.scale == "log" else signed


def _more(comparison: Comparison, evidence: Evidence, false_pass: float, level: float) -> More:
    noun = "prompts" if isinstance(evidence, PairedShares) else "requests"
    factor = factor_to_settle(evidence, comparison.limit, false_pass, level)
    if factor is None:
        return More(launches=None, requests=None, noun=noun)
    if isinstance(evidence, PairedShares):
        return More(launches=None, requests=math.ceil(evidence.n * (factor - 1)), noun=noun)
    launches = comparison.launches_candidate
    per_launch = comparison.requests / launches
    if isinstance(evidence, Launches):
        added = max(1, math.ceil(evidence.n_candidate * factor) - evidence.n_candidate)
        return More(launches=added, requests=math.ceil(added * per_launch), noun=noun)
    added_requests = math.ceil(comparison.requests * (factor - 1))
    return More(launches=math.ceil(added_requests / per_launch), requests=added_requests, noun=noun)


def _reason(comparison: Comparison, evidence: Evidence, verdict: Verdict, more: More | None) -> str:
    how = evidence.how
    if verdict == "regressed":
        return f"worse than {comparison.budget} beyond doubt; {how}"
    if verdict == "pass":
        return how
    return f"{_more_text(more)}; {how}"


def _more_text(more: More | None) -> str:
    if more is None or more.requests is None:
        return "the change is at the limit: a hundred times the data would not settle it; widen the budget or accept it"
    if more.launches is None:
        return f"about {more.requests} more {more.noun} would settle it"
    noun = "launch" if more.launches == 1 else "launches"
    return f"about {more.launches} more {noun} of each side ({more.requests:,} more {more.noun}) would settle it"
