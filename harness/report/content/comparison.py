"""The report's comparison of several runs: candidates matched by their axes, differences with intervals, no verdict.

A difference is relative, (other - first) / first. Its 95 % interval comes from the two 95 % intervals on a log scale
(MOVER, Donner & Zou 2012): log ratio d, from d - sqrt((b - b_low)^2 + (a_high - a)^2) to
d + sqrt((b_high - b)^2 + (a - a_low)^2). The runs are taken as independent; what changed between them besides the
candidate (the machine's mood) is not in it. No interval where one of the four ends does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.choose.goals import run_goals
from harness.choose.repetitions import Pooled
from harness.measure.metrics import metrics_in
from harness.records import Candidate, Metric, Trial
from harness.report.content.run_summary import Story, headline, plain_value, verified
from harness.report.content.sections import Cell, Head, Section
from harness.report.wording.numbers import ABSENT, is_only_bounded_below, metric_text
from harness.report.wording.titles import metric_title
from harness.wording import label

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """(other - first) / first with its 95 % interval; None where an end does not exist."""

    value_frac: float
    low_frac: float | None
    high_frac: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs in the order given; the first is what the others are held against."""

    stories: tuple[Story, ...]
    candidates: tuple[Candidate, ...]

    def pooled(self, index: int, candidate: Candidate) -> Pooled | None:
        """Run `index`'s numbers for a candidate; None where it never ran it."""
        wanted = candidate.candidate_id
        found = (one for one in self.stories[index].everyone if one.candidate.candidate_id == wanted)
        return next(found, None)

    def metric(self, index: int, candidate: Candidate, name: str) -> Metric | None:
        """A pooled metric of a candidate in run `index`."""
        one = self.pooled(index, candidate)
        return one.metric(name) if one is not None else None

    def name(self, index: int) -> str:
        """'A quickstart 20260102T030405Z-abcdef0123'."""
        story = self.stories[index]
        return f"{LETTERS[index]} {story.name} {story.run.root.name}"


def compare(stories: Sequence[Story]) -> Comparison:
    """The comparison; candidates of every run first, the first run's choice before all."""
    seen: dict[str, Candidate] = {}
    counts: dict[str, int] = {}
    for story in stories:
        for one in story.everyone:
            seen.setdefault(one.candidate.candidate_id, one.candidate)
            counts[one.candidate.candidate_id] = counts.get(one.candidate.candidate_id, 0) + 1
    chosen = [story.chosen_id for story in stories]
    made = Comparison(stories=tuple(stories), candidates=tuple(seen.values()))
    objective = stories[0].goals.objectives[0]

    def order(one: Candidate) -> tuple[int, int, float]:
        rank = chosen.index(one.candidate_id) if one.candidate_id in chosen else len(chosen)
        costs = [made.metric(index, one, objective.metric) for index in range(len(stories))]
        return rank, -counts[one.candidate_id], min(objective.cost(metric) for metric in costs)

    return Comparison(stories=made.stories, candidates=tuple(sorted(made.candidates, key=order)))


def difference(first: Metric | None, other: Metric | None) -> Difference | None:
    """How much `other` is above `first`; None where either is missing, not above zero, or a lower bound only."""
    if first is None or other is None or first.value <= 0 or other.value <= 0:
        return None
    if is_only_bounded_below(first) or is_only_bounded_below(other):
        return None
    a, b = math.log(first.value), math.log(other.value)
    low = high = None
    ends = (first.low, first.high, other.low, other.high)
    if all(end is not None and end > 0 for end in ends):
        a_low, a_high, b_low, b_high = (math.log(end) for end in ends if end is not None)
        low = math.expm1(b - a - math.hypot(b - b_low, a_high - a))
        high = math.expm1(b - a + math.hypot(b_high - b, a - a_low))
    return Difference(value_frac=math.expm1(b - a), low_frac=low, high_frac=high)


def difference_text(found: Difference | None) -> str:
    """'+4.2 % [-1.0, +9.8]', a dash for none."""
    if found is None:
        return ABSENT
    text = f"{100 * found.value_frac:+.1f} %"
    if found.low_frac is None or found.high_frac is None:
        return f"{text} (no interval)"
    return f"{text} [{100 * found.low_frac:+.1f}, {100 * found.high_frac:+.1f}]"


def _difference_cell(first: Metric | None, other: Metric | None) -> Cell:
    found = difference(first, other)
    if found is not None:
        return Cell(text=difference_text(found), sort=found.value_frac)
    is_bound = first is not None and other is not None and any(map(is_only_bounded_below, (first, other)))
    return Cell(text="too few requests" if is_bound else ABSENT)


def sections(comparison: Comparison) -> tuple[Section, ...]:
    """What each run recommends, the candidates side by side, what is not the same about the runs."""
    return (_answers(comparison), *_candidate_tables(comparison), _facts(comparison))


def _answers(comparison: Comparison) -> Section:
    rows = []
    for index, story in enumerate(comparison.stories):
        if story.choice is None:
            rows.append(
                (
                    Cell(text=comparison.name(index)),
                    Cell(text="nothing"),
                    Cell(text=story.why_nothing),
                    Cell(text=ABSENT),
                )
            )
            continue
        trial = story.choice.chosen.evidence(story.goals)
        what = label(trial.candidate)
        rows.append(
            (
                Cell(text=comparison.name(index)),
                Cell(text=what),
                Cell(text=headline(story.choice.chosen)),
                Cell(text=verified(story)),
            )
        )
    heads = (Head(title="Run"), Head(title="Recommends"), Head(title="Measured"), Head(title="Verification"))
    note = "Differences are given with their intervals and not judged: that is dyno gate's part."
    return Section(
        key="answer", title="What each run recommends", heads=heads, rows=tuple(rows), notes=(note, *_twice(comparison))
    )


def _twice(comparison: Comparison) -> list[str]:
    """A sentence for each run that is named a second time: its differences mean nothing."""
    roots = [story.run.root.resolve() for story in comparison.stories]
    firsts = [(roots.index(root), index) for index, root in enumerate(roots)]
    return [f"{LETTERS[first]} and {LETTERS[index]} are the same run." for first, index in firsts if first != index]


def _candidate_tables(comparison: Comparison) -> list[Section]:
    objective = comparison.stories[0].goals.objectives[0].metric
    names = list(dict.fromkeys([objective, *(row.name for row in metrics_in("compared"))]))
    names += [row.name for row in metrics_in("aside") if _is_anywhere(comparison, row.name)]
    return [_metric_table(comparison, name) for name in names if _is_anywhere(comparison, name)]


def _metric_table(comparison: Comparison, name: str) -> Section:
    unit = next(
        metric.unit
        for candidate in comparison.candidates
        for index in range(len(comparison.stories))
        if (metric := comparison.metric(index, candidate, name)) is not None
    )
    others = range(1, len(comparison.stories))
    heads = [Head(title="Candidate")]
    heads += [Head(title=LETTERS[index], is_number=True) for index in range(len(comparison.stories))]
    heads += [Head(title=f"{LETTERS[index]} against A", is_number=True) for index in others]
    rows = []
    for candidate in comparison.candidates:
        metrics = [comparison.metric(index, candidate, name) for index in range(len(comparison.stories))]
        if all(metric is None for metric in metrics):
            continue
        cells = [Cell(text=label(candidate))]
        cells += [_value(comparison, index, candidate, metric) for index, metric in enumerate(metrics)]
        cells += [_difference_cell(metrics[0], metrics[index]) for index in others]
        rows.append(tuple(cells))
    title = metric_title(name, unit)
    return Section(key=name.replace(".", "-"), title=title, heads=tuple(heads), rows=tuple(rows))


def _value(comparison: Comparison, index: int, candidate: Candidate, metric: Metric | None) -> Cell:
    one = comparison.pooled(index, candidate)
    if metric is None:
        return Cell(text="not run" if one is None else one.worst.outcome if one.worst.outcome != "ok" else ABSENT)
    trial = one.evidence(comparison.stories[index].goals) if one is not None else None
    key = raw_key(index, trial) if trial is not None else ""
    return Cell(text=metric_text(metric), sort=metric.value, trial_id=key)


def raw_key(index: int, trial: Trial) -> str:
    """What names a trial among several runs: two runs may hold the same trial id."""
    return f"{LETTERS[index]}/{trial.trial_id}"


def _is_anywhere(comparison: Comparison, name: str) -> bool:
    places = range(len(comparison.stories))
    return any(comparison.metric(index, one, name) is not None for index in places for one in comparison.candidates)


def _facts(comparison: Comparison) -> Section:
    """What differs between machines, versions and scenarios: then a difference is not the engine's alone."""
    known = [_facts_of(story) for story in comparison.stories]
    keys = list(dict.fromkeys(key for one in known for key in one))
    unequal = [key for key in keys if len({one.get(key, "") for one in known}) > 1]
    title = "What is not the same about the runs"
    if not unequal:
        same = "Machine, versions, workload and goals are the same."
        return Section(key="machine", title=title, paragraphs=(same,))
    heads = (Head(title="Fact"), *(Head(title=LETTERS[index]) for index in range(len(known))))
    rows = tuple((Cell(text=key), *(Cell(text=one.get(key, ABSENT) or ABSENT) for one in known)) for key in unequal)
    return Section(key="machine", title=title, heads=heads, rows=rows)


def _facts_of(story: Story) -> dict[str, str]:
    manifest = story.run.manifest
    facts = {f"machine: {key.replace('_', ' ')}": plain_value(value) for key, value in manifest.machine.items()}
    facts |= {f"package: {key}": value for key, value in manifest.versions.items()}
    for part in ("workload", "quality", "constraints", "objectives"):
        facts[f"scenario: {part}"] = plain_value(manifest.scenario.get(part))
    goals = run_goals(story.run)
    return facts | {
        "git": manifest.git,
        "created": manifest.created_utc,
        "objective": ", ".join(one.metric for one in goals.objectives),
        "scenario digest": manifest.digest,
    }
