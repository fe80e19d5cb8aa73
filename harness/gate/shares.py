"""The gate's evidence for a change of a share: failed requests of all requests, right answers of all prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.gate.evidence import Evidence, PairedShares, Shares
from harness.gate.launches import Launch
from harness.gate.pairing import Match
from harness.gate.quality_answers import Answers, answers_of
from harness.gate.sides import Sides, Values


def of_counts(values: Values) -> Shares:
    """Failed requests of all requests; more spread among launches than chance gives shrinks what they are worth."""
    effect = max(_design_effect(values.before), _design_effect(values.now))
    counts = [(sum(x.value * x.n for x in side), sum(x.n for x in side)) for side in (values.before, values.now)]
    (bad_before, n_before), (bad_now, n_now) = counts
    return Shares(
        bad_baseline=bad_before / effect,
        n_baseline=n_before / effect,
        bad_candidate=bad_now / effect,
        n_candidate=n_now / effect,
        how=f"{bad_before:.0f} of {n_before} before, {bad_now:.0f} of {n_now} now"
        + (f", worth {1 / effect:.0%} of that since launches differ" if effect > 1 else ""),
    )


def _design_effect(side: Sequence[Launch]) -> float:
    """Variance of the launches' shares over what independent requests would give; 1 below 3 launches."""
    total = sum(launch.n for launch in side)
    share = sum(launch.value * launch.n for launch in side) / total
    if len(side) < 3 or not 0 < share < 1:
        return 1.0
    squares = sum(launch.n * (launch.value - share) ** 2 for launch in side) / (share * (1 - share))
    return max(1.0, squares / (len(side) - 1))


def of_answers(sides: Sides, match: Match, values: Values) -> Evidence:
    """Right answers of all prompts, the same prompts on both sides where the answers are stored."""
    first, last = values.before[0], values.now[0]
    right_before, right_now = first.value * first.n, last.value * last.n
    stored = _stored_answers(sides, match, first, last)
    if stored is None or first.n != last.n:
        return Shares(
            bad_baseline=first.n - right_before,
            n_baseline=first.n,
            bad_candidate=last.n - right_now,
            n_candidate=last.n,
            how=f"{right_before:.0f} of {first.n} before, {right_now:.0f} of {last.n} now; answers are not stored on "
            "both sides, so prompts are not paired",
        )
    differing = len(stored.differing)
    same = "every answer is the same" if differing == 0 else f"{differing} answers differ"
    return PairedShares(
        net_worse=right_before - right_now,
        differing=min(differing, last.n),
        n=last.n,
        is_identical=differing == 0,
        how=f"{right_before:.0f} of {last.n} before, {right_now:.0f} now; {same} (paired by prompt)",
    )


def _stored_answers(sides: Sides, match: Match, first: Launch, last: Launch) -> Answers | None:
    roots: Mapping[str, Path] = {
        trial.trial_id: run.root
        for run, trials in reversed(list(zip(sides.baselines, match.baseline, strict=True)))
        for trial in trials
    }  # the first run wins where several numbered their trials alike
    before = answers_of(roots[first.trial_id], first.trial_id)
    now = answers_of(sides.candidate.root, last.trial_id)
    return Answers(before=before, now=now) if before and now else None
