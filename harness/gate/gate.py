"""The gate itself: stored runs and rules in, GateResult out; refuses what cannot be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.gate.compare import Comparison, compare
from harness.gate.pairing import Finding, Match, match
from harness.gate.rules import Rules
from harness.gate.same_conditions import Comparability, compare_conditions
from harness.gate.sides import SITTINGS_FROM, Sides
from harness.gate.verdict import GateResult, Judged, Verdict, judge
from harness.records import DoubtKind
from harness.store.pairs import Pairs, read_pairs
from harness.store.reader import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    verdict: Verdict
    headline: str
    judged: tuple[Judged, ...] = ()
    findings: tuple[Finding, ...] = ()
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def gate(
    baselines: Sequence[Run], candidate: Run, rules: Rules, *, allows_different_machine: bool = False
) -> GateResult:
    """The verdict on `candidate` against one or more baseline runs (several: sittings of the same code)."""
    conditions = [compare_conditions(each, candidate) for each in baselines]
    answer = _refused(conditions, allows_different_machine)
    if answer is None:
        answer = _judged(baselines, candidate, rules)
        notes = [*(note for each in conditions for note in each.notes), *answer.notes]
        differing = [fact for each in conditions for fact in each.machine]
        if differing:
            pair = "the machines differ (allowed): this verdict is about the pair (machine, code), not the code alone"
            notes = [pair, *differing, *notes]
        notes += [note for run in (*baselines, candidate) for note in run.notes]
    else:
        notes = []
    return GateResult(
        verdict=answer.verdict,
        headline=answer.headline,
        judged=answer.judged,
        findings=answer.findings,
        refusals=answer.refusals,
        notes=tuple(dict.fromkeys(notes)),
        baseline=tuple(run.root for run in baselines),
        candidate=candidate.root,
        rules=rules,
    )


def _refused(conditions: Sequence[Comparability], allows_different_machine: bool) -> _Answer | None:
    question = tuple(dict.fromkeys(fact for each in conditions for fact in each.question))
    if question:
        return _Answer(
            verdict="cannot tell",
            headline="cannot tell: the two runs asked different questions; measure both with the same scenario",
            refusals=question,
        )
    machine = tuple(dict.fromkeys(fact for each in conditions for fact in each.machine))
    if machine and not allows_different_machine:
        return _Answer(
            verdict="cannot tell",
            headline="cannot tell: the machines differ; measure both on one machine, or pass --allow-different-machine",
            refusals=machine,
        )
    return None


def _judged(baselines: Sequence[Run], candidate: Run, rules: Rules) -> _Answer:
    matches, findings = match(baselines, candidate, wants_all=rules.candidates == "all")
    if not matches and not any(finding.verdict == "regressed" for finding in findings):
        return _Answer(
            verdict="cannot tell",
            headline="cannot tell: no candidate was measured in both runs",
            findings=findings,
        )
    pairs = read_pairs(candidate.root, baselines[0].root) if len(baselines) == 1 else None
    comparisons = compare(Sides(baselines=tuple(baselines), candidate=candidate, matches=matches, pairs=pairs), rules)
    judged = judge(comparisons, rules, share=pairs.share if pairs is not None else 1.0)
    findings = (*findings, *_unmeasured(matches, comparisons, rules))
    verdict = _overall(judged, findings)
    return _Answer(
        verdict=verdict,
        headline=_headline(verdict, judged, findings),
        judged=judged,
        findings=findings,
        notes=(*_setting(baselines, pairs), *_served_by(matches), *_distrust(matches)),
    )


def _unmeasured(matches: Sequence[Match], comparisons: Sequence[Comparison], rules: Rules) -> Iterator[Finding]:
    """What the rules file asks for and neither run holds; a pass would claim that it was judged."""
    have = {(each.candidate_id, each.metric) for each in comparisons}
    for name in rules.asked():
        without = [each for each in matches if (each.candidate_id, name) not in have]
        if without:
            which = without[0].label if len(without) == 1 else f"{len(without)} of {len(matches)} candidates"
            reason = f"the rules judge {name}, and neither run has it; measure it, or take it out of the rules"
            yield Finding(candidate_id=without[0].candidate_id, label=which, verdict="cannot tell", reason=reason)


def _overall(judged: Sequence[Judged], findings: Sequence[Finding]) -> Verdict:
    """Regressed wins over cannot tell, which wins over pass; nothing judged at all cannot pass."""
    verdicts = [*(each.verdict for each in judged), *(each.verdict for each in findings)]
    if "regressed" in verdicts:
        return "regressed"
    return "cannot tell" if "cannot tell" in verdicts or not judged else "pass"


def _headline(verdict: Verdict, judged: Sequence[Judged], findings: Sequence[Finding]) -> str:
    counts = {word: sum(each.verdict == word for each in judged) for word in ("pass", "regressed", "cannot tell")}
    total = len(judged)
    if verdict == "pass":
        return f"pass: all {total} comparisons lie inside their budgets"
    if verdict == "regressed":
        parts = (
            [f"{counts['regressed']} of {total} comparisons lie beyond their budgets"] if counts["regressed"] else []
        )
        failures = sum(finding.verdict == "regressed" for finding in findings)
        parts += (
            [f"{failures} {'candidate fails' if failures == 1 else 'candidates fail'} that worked"] if failures else []
        )
        return f"regressed: {', '.join(parts)}"
    if not total and not findings:
        return "cannot tell: the rules leave no metric that both runs have; name one under 'metrics:'"
    open_ones = counts["cannot tell"] + sum(finding.verdict == "cannot tell" for finding in findings)
    return f"cannot tell: {open_ones} open, {counts['pass']} of {total} comparisons inside their budgets" + _settle(
        judged
    )


def _settle(judged: Sequence[Judged]) -> str:
    """The largest demand among the open comparisons."""
    asked = [each.more for each in judged if each.more is not None]
    wanted = [more for more in asked if more.requests is not None]
    hopeless = len(asked) - len(wanted)
    limit = f"; {hopeless} at the limit of the budget, where more data would not help" if hopeless else ""
    if not wanted:
        return limit
    most = max(wanted, key=lambda more: more.requests or 0)
    launches = f"{most.launches} more launches of each side, " if most.launches else ""
    rest = "it" if not hopeless else "the rest"
    return f"{limit}; about {launches}{most.requests:,} more {most.noun} would settle {rest}"


def _setting(baselines: Sequence[Run], pairs: Pairs | None) -> tuple[str, ...]:
    if pairs is not None:
        look = f"; this look spends {pairs.share:.0%} of the error levels" if pairs.share < 1 else ""
        return (f"measured side by side in {len(pairs.trial_ids)} pairs{look}",)
    if len(baselines) >= SITTINGS_FROM:
        return (f"{len(baselines)} baseline runs: the spread between runs is in the intervals",)
    return (
        "measured in separate sittings: what the machine drifted between them is not in the intervals; "
        f"{SITTINGS_FROM} baseline runs, or --baseline-ref (side by side), would put it there",
    )


def _served_by(matches: Sequence[Match]) -> tuple[str, ...]:
    """The engines' descriptions of themselves, where the two sides differ: versions and the dtype that really
    computes."""
    notes = []
    for each in matches:
        before, now = next(group for group in each.baseline if group)[-1], each.candidate[-1]
        if before.effective_dtype != now.effective_dtype:
            notes.append(f"{each.label}: computed in {before.effective_dtype} before, in {now.effective_dtype} now")
        for name in sorted({*before.versions, *now.versions}):
            first, second = before.versions.get(name, "none"), now.versions.get(name, "none")
            if first != second:
                notes.append(f"{each.label}: {name} {first} before, {second} now")
    return tuple(dict.fromkeys(notes))


def _distrust(matches: Sequence[Match]) -> tuple[str, ...]:
    """Reasons to distrust the launches: one example of each kind, counted."""
    kinds: dict[DoubtKind, dict[int, str]] = {}
    launches = (trial for each in matches for group in (*each.baseline, each.candidate) for trial in group)
    for place, trial in enumerate(launches):
        for doubt in trial.doubts:
            kinds.setdefault(doubt.kind, {}).setdefault(place, doubt.sentence)
    return tuple(f"distrust, {len(found)} launches: {next(iter(found.values()))}" for found in kinds.values())
