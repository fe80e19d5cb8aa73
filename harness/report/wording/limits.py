"""The limits that held the loads of trials back, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.records import LimitKind, NamedLimit, Trial

NONE_NAMED = "no limit named: no number shows one"


def limits_text(limits: Sequence[NamedLimit] | None) -> str:
    """The limits of one trial; '' where nobody looked."""
    if limits is None:
        return ""
    return "; ".join(limit.sentence for limit in limits) or NONE_NAMED


def limit_notes(trials: Sequence[Trial]) -> Iterator[str]:
    """One note per kind of limit, with an example."""
    found: dict[LimitKind, list[tuple[str, str]]] = {}
    for trial in trials:
        for limit in (trial.summary.limits or ()) if trial.summary is not None else ():
            found.setdefault(limit.kind, []).append((limit.sentence, trial.trial_id))
    for those in found.values():
        sentence, trial_id = those[0]
        more = f" and {len(those) - 1} more" if len(those) > 1 else ""
        yield f"limited by ({trial_id}{more}): {sentence}"
