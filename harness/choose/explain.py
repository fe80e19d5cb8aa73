"""Explanation of the choice: the winner's margin, and why each other candidate lost."""

from __future__ import annotations

from collections.abc import Sequence

from harness.choose.decide import MEMORY_FRAC, TIE_FRAC, Choice, cheapest, overlap
from harness.choose.goals import Objective, dominates
from harness.choose.paired import launch_spread_frac, pairs
from harness.choose.repetitions import DOUBT_FRAC, Pooled
from harness.recommendation import Loss, LossKind
from harness.records import Metric
from harness.wording import label, quantity, unit_suffix

REASON_LENGTH = 160
"""Characters kept of a failure's reason in a one-sentence answer; the report and the log hold the rest."""


def losses(choice: Choice) -> tuple[Loss, ...]:
    """One sentence for every candidate that was not chosen, best first, failed ones last."""
    others = [one for one in choice.everyone if one is not choice.chosen]
    others.sort(key=lambda one: one.rank(choice.goals))
    return tuple(_loss(one, choice) for one in others)


def margin(choice: Choice) -> str:
    """How good the chosen one is, against whom, and how much room its constraints have left."""
    parts = []
    values = [
        f"{objective.metric} {quantity(metric)}"
        for objective in choice.goals.objectives
        if (metric := choice.chosen.metric(objective.metric)) is not None
    ]
    repeated = len(choice.chosen.counted)
    parts.append(" and ".join(values) + (f" over {repeated} measurements" if repeated > 1 else ""))
    if (spread := launch_spread_frac(choice.chosen, choice.goals)) is not None:
        parts.append(f"its launches differ by {100 * spread:.2g} % (standard deviation)")
    parts.append(_against(choice))
    rooms = [
        limit.room(metric)
        for limit in choice.goals.limits
        if (metric := choice.chosen.metric(limit.metric)) is not None
    ]
    if rooms:
        parts.append("within " + ", ".join(rooms))
    if doubts := choice.chosen.doubts(choice.goals):
        parts.append(f"in doubt, so counted {100 * DOUBT_FRAC:.0f} % worse: " + "; ".join(doubts))
    if choice.chosen.disturbances():
        parts.append("disturbed while measured: " + "; ".join(choice.chosen.disturbances()))
    return "; ".join(part for part in parts if part)


def gain(choice: Choice, incumbents: Sequence[Pooled]) -> str:
    """The chosen one against what is in production today (the first of `incumbents`; none: it was not measured)."""
    if not incumbents:
        return "unknown: the incumbent was not measured"
    old, new = incumbents[0], choice.chosen
    if old is new:
        return "none: the incumbent is the best of what was measured"
    name = f"the incumbent ({label(old.candidate)})"
    if old.worst.outcome != "ok":
        return f"unknown: {name} gave no measurement: {old.worst.outcome}: {_short(old.worst.reason)}"
    changes, is_clear = [], False
    for objective in choice.goals.objectives:
        before, after = old.metric(objective.metric), new.metric(objective.metric)
        if before is not None and after is not None:
            changes.append(
                f"{objective.metric} {quantity(after)} against {quantity(before)} ({_percent(after, before)})"
            )
            is_clear = is_clear or not overlap(after, before)
    if not changes:
        return f"unknown: {name} has no value of {choice.goals.objectives[0].metric}"
    broke = f"; {name} broke a constraint: {'; '.join(old.worst.violations)}" if old.worst.violations else ""
    unsure = "" if is_clear else "cannot tell, the intervals overlap: "
    return f"{unsure}{' and '.join(changes)}, {name}{broke}"


def _loss(one: Pooled, choice: Choice) -> Loss:
    kind, why = _why_lost(one, choice)
    return Loss(trial_id=_shown(one, choice), candidate=one.candidate, kind=kind, why=why)


def _why_lost(one: Pooled, choice: Choice) -> tuple[LossKind, str]:
    """The kind and one sentence: what ruled the candidate out, or by how much it is worse."""
    worst = one.worst
    repeated = f" in one of {len(one.telling)} measurements" if len(one.telling) > 1 else ""
    if worst.race is not None:
        return "ended_early", f"{'probed' if worst.race.is_probe else 'ended early'}{repeated}: {_short(worst.reason)}"
    if not worst.has_numbers:
        return "failed", f"{worst.outcome}{repeated}: {_short(worst.reason)}"
    if worst.violations:
        return "broken", f"broke a constraint{repeated}: {'; '.join(worst.violations)}"
    if worst.unranked:
        return "unranked", f"measured on machine {worst.machine} alone, whose trials are not ranked: {worst.unranked}"
    missing = [o.metric for o in choice.goals.objectives if one.metric(o.metric) is None]
    if missing:
        return "unmeasured", f"has no value for {', '.join(missing)}"
    kind, why = _lost_on_front(one, choice) if len(choice.goals.objectives) > 1 else _lost_on_value(one, choice)
    return kind, why + _remarks(one, choice)


def _remarks(one: Pooled, choice: Choice) -> str:
    """What may have cost it the choice; what holds for the chosen one as well decides nothing and is left out."""
    if (doubts := one.doubts(choice.goals)) and not choice.chosen.doubts(choice.goals):
        return f" (in doubt, so counted {100 * DOUBT_FRAC:.0f} % worse: {doubts[0]})"
    if (disturbances := one.disturbances()) and not choice.chosen.disturbances():
        return f" (disturbed while measured: {disturbances[0]})"
    return ""


def _against(choice: Choice) -> str:
    if choice.tied:
        names = "; ".join(
            label(one.candidate) + _bracketed(_chance(one, choice)) for one in choice.tied[:3]
        )  # labels hold commas
        more = f" and {len(choice.tied) - 3} more" if len(choice.tied) > 3 else ""
        if choice.chance_better(choice.tied[0]) is not None:
            return f"cannot tell which is best, so the cheapest was taken; it may as well be: {names}{more}"
        is_cheapest = cheapest((choice.chosen, *choice.tied), choice.goals) is choice.chosen
        within = "" if is_cheapest else f" within {100 * TIE_FRAC:.0f} % of the best one"
        return f"a tie, the cheapest of which{within} was taken; the interval overlaps with: {names}{more}"
    if choice.runner_up is None:
        races = [one.worst.race for one in choice.everyone if one.worst.race is not None]
        ended = sum(not race.is_probe for race in races)
        counts = (("surely worse, so ended early", ended), ("not promising, so probed alone", len(races) - ended))
        return "; ".join(["the only feasible candidate", *(f"{what}: {count}" for what, count in counts if count)])
    if len(choice.goals.objectives) > 1 and len(choice.front) > 1:
        return f"the knee of a Pareto front of {len(choice.front)}"
    if len(choice.goals.objectives) > 1:
        return "the best in every objective"
    objective = choice.goals.objectives[0]
    best, next_best = choice.chosen.metric(objective.metric), choice.runner_up.metric(objective.metric)
    if best is None or next_best is None:
        return ""
    worse = (
        _worse(objective, next_best, best)
        + _bracketed(_chance(choice.runner_up, choice))
        + _remarks(choice.runner_up, choice)
    )
    return f"the runner-up ({label(choice.runner_up.candidate)}) is {worse}"


def _chance(one: Pooled, choice: Choice) -> str:
    """'better with a chance of 23 %, 4 paired launches'; '' where these are too few for a chance."""
    chance = choice.chance_better(one)
    if chance is None:
        return ""
    launches = len(pairs(one, choice.chosen, choice.goals))
    return f"better with a chance of {_chance_text(chance)}, {launches} paired launches"


def _bracketed(text: str) -> str:
    return f" ({text})" if text else ""


def _chance_text(chance: float) -> str:
    return "under 1 %" if chance < 0.01 else "over 99 %" if chance > 0.99 else f"{100 * chance:.0f} %"


def _lost_on_value(one: Pooled, choice: Choice) -> tuple[LossKind, str]:
    objective = choice.goals.objectives[0]
    mine, best = one.metric(objective.metric), choice.chosen.metric(objective.metric)
    if mine is None or best is None:
        return "unmeasured", "was not measured"
    if one in choice.tied:
        met = "; ".join(filter(None, (f"{quantity(mine)} against {quantity(best)}", _chance(one, choice))))
        return "tie", f"a tie ({met}), but {_not_taken(one, choice)}"
    if choice.chance_better(one) is not None:
        return "worse", _worse(objective, mine, best) + _bracketed(_chance(one, choice))
    if choice.chosen.is_confirmed and not one.is_confirmed:
        return "worse", f"{_worse(objective, mine, best)}; by its first measurement it was no finalist"
    also = "; the intervals overlap, but others are surely better than it" if overlap(mine, best) else ""
    return "worse", f"{_worse(objective, mine, best)}{also}"


def _lost_on_front(one: Pooled, choice: Choice) -> tuple[LossKind, str]:
    pairs = []
    for objective in choice.goals.objectives:
        mine, best = one.metric(objective.metric), choice.chosen.metric(objective.metric)
        if mine is not None and best is not None:
            pairs.append(f"{objective.metric} {_change(mine, best)}")
    against = f"against the chosen one: {', '.join(pairs)}"
    if one in choice.tied:
        met = f"a tie: every interval meets the chosen one's ({', '.join(pairs)})"
        return "tie", f"{met}, but {_not_taken(one, choice)}"
    if one in choice.front:
        return "off_knee", f"on the Pareto front, but further from the ideal corner than the knee; {against}"
    costs = one.costs(choice.goals)
    if dominates(choice.chosen.costs(choice.goals), costs):
        return "dominated", f"dominated by the chosen one: {', '.join(pairs)}"
    better = next((other for other in choice.front if dominates(other.costs(choice.goals), costs)), None)
    return ("dominated", f"dominated by {label(better.candidate)}; {against}") if better else ("worse", against)


def _worse(objective: Objective, mine: Metric, best: Metric) -> str:
    if objective.metric.startswith(("latency", "ttft", "load")):
        word = "slower" if objective.cost(mine) > objective.cost(best) else "faster"
    elif objective.is_minimized:
        word = "higher" if mine.value > best.value else "lower"
    else:
        word = "lower" if mine.value < best.value else "higher"
    unit = unit_suffix(mine.unit)
    return (
        f"{word} by {abs(mine.value - best.value):.4g}{unit} ({_percent(mine, best)}): {objective.metric} "
        f"{quantity(mine)} against {quantity(best)}"
    )


def _change(mine: Metric, best: Metric) -> str:
    return f"{mine.value:.4g}{unit_suffix(mine.unit)} ({_percent(mine, best)})"


def _percent(mine: Metric, best: Metric) -> str:
    if not best.value:
        return "from 0"
    return f"{(mine.value - best.value) / abs(best.value):+.1%}".replace("%", " %")


def _not_taken(one: Pooled, choice: Choice) -> str:
    if one in choice.too_far and cheapest((one, choice.chosen), choice.goals) is one:
        return (
            f"more than {100 * TIE_FRAC:.0f} % behind the best of the tie as measured, so not taken even where cheaper"
        )
    return _dearer(one, choice.chosen)


def _dearer(one: Pooled, chosen: Pooled) -> str:
    mine, its = one.candidate, chosen.candidate
    if mine.workers != its.workers:
        return f"it needs {mine.workers} workers instead of {its.workers}"
    if mine.tensor_parallel_degree != its.tensor_parallel_degree:
        return f"it needs {mine.tensor_parallel_degree} devices instead of {its.tensor_parallel_degree}"
    memory, less = one.metric("peak_memory_mib"), chosen.metric("peak_memory_mib")
    if memory is not None and less is not None and memory.value > less.value * (1 + MEMORY_FRAC):
        return f"it needs {memory.value - less.value:.0f} MiB more memory ({memory.value:.0f} against {less.value:.0f})"
    return "it is no cheaper and its value no better"


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= REASON_LENGTH else line[: REASON_LENGTH - 1].rstrip() + "…"


def _shown(one: Pooled, choice: Choice) -> str:
    return one.evidence(choice.goals).trial_id if one.is_feasible else one.worst.trial_id
