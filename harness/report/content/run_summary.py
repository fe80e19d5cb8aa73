"""The report's summary of a run in sections: the answer first, then the engines, the axes, the losers, the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.choose.decide import Choice, decide
from harness.choose.for_container import choose_for
from harness.choose.goals import Goals, run_goals
from harness.choose.repetitions import Pooled, pool
from harness.errors import MeasurementInvalid, UsageError
from harness.measure.metrics import metrics_in
from harness.properties.render import scenario_container, why_nothing_to_write
from harness.recommendation import Recommendation
from harness.records import Trial
from harness.report.content.axis_importance import MIN_CANDIDATES, Importance, importances
from harness.report.content.result_table import is_unfinished, model_name, one_line, recommendation_of, why_nothing
from harness.report.content.sections import Cell, Head, Section, metric_cell
from harness.report.wording.titles import axis_title, metric_title, part_shown
from harness.store.codec import DecodeError
from harness.store.formats import Imported
from harness.store.reader import Run, trial_from_json
from harness.wording import label, quantity

LOSSES_SHOWN = 40
"""Sentences of who lost; the rest is in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contained:
    """The scenario's `container` where it cannot serve the best of all: the `best` that it can serve (None: nothing
    measured) and, in one sentence, why and what that costs."""

    container: str
    best: Recommendation | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A run with everything that is computed from it once."""

    run: Run
    goals: Goals
    everyone: tuple[Pooled, ...]
    recommendation: Recommendation | None
    choice: Choice | None
    why_nothing: str
    importances: tuple[Importance, ...]
    verification: Verification | None
    contained: Contained | None = None

    @property
    def chosen_id(self) -> str:
        """The recommended candidate's id; '' when there is none."""
        return self.choice.chosen.candidate.candidate_id if self.choice is not None else ""

    def ranked(self) -> list[Pooled]:
        """Every candidate, best first: the chosen one, then as the choice ranks them."""
        others = sorted(self.everyone, key=lambda one: one.rank(self.goals))
        return sorted(others, key=lambda one: one.candidate.candidate_id != self.chosen_id)

    @property
    def name(self) -> str:
        """The scenario's name."""
        return str(self.run.manifest.scenario.get("name", self.run.root.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the written serving.properties gave when a server was started from it; `trial` has its numbers."""

    is_inside: bool
    sentence: str
    trial: Trial | None


def story_of(run: Run) -> Story:
    """Everything the sections and figures need. Raises MeasurementInvalid when the manifest names no objective."""
    goals = run_goals(run)
    everyone = pool(run.trials)
    try:
        choice: Choice | None = decide(run.trials, goals) if run.manifest.imported is None else None
    except MeasurementInvalid:
        choice = None
    contained = contained_in(run) if choice is not None else None
    best = contained.best if contained is not None else None
    deployed = best.trial.candidate if best is not None else choice.chosen.candidate if choice is not None else None
    return Story(
        run=run,
        goals=goals,
        everyone=everyone,
        recommendation=recommendation_of(run),
        choice=choice,
        why_nothing=why_nothing(run),
        importances=importances(everyone, goals.objectives[0]),
        verification=verification_of(run, deployed.candidate_id if deployed is not None else ""),
        contained=contained,
    )


def contained_in(run: Run) -> Contained | None:
    """What the run's own container serves instead of the best of all; None where it serves that."""
    container = scenario_container(run.manifest)
    try:
        best, given_up = choose_for(run, container)
    except UsageError as error:
        return Contained(container=container, best=None, sentence=str(error))
    return Contained(container=container, best=best, sentence=given_up) if given_up else None


def verification_of(run: Run, chosen_id: str) -> Verification | None:
    """The stored verification, None when there is none or it was of another candidate."""
    path = run.layout.recommendation_dir / "verification.json"
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        trial = trial_from_json(stored["trial"], str(path))
        found = Verification(is_inside=bool(stored["is_inside"]), sentence=str(stored["sentence"]), trial=trial)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        return Verification(is_inside=False, sentence=f"{path.name} cannot be read ({error})", trial=None)
    return found if trial.candidate.candidate_id == chosen_id else None


def answer(story: Story) -> Section:
    """The recommendation in sentences: what, how good, against whom, verified or not."""
    if story.recommendation is None or story.choice is None:
        title = "No recommendation" if story.run.manifest.imported is None else "Imported"
        return Section(key="answer", title=title, paragraphs=(story.why_nothing,))
    title = "Recommended so far: the search has not ended" if is_unfinished(story.run) else "Recommended"
    title += " (a tie)" if story.recommendation.is_tie else ""
    paragraphs = (
        label(story.recommendation.trial.candidate),
        *([f"Gain: {story.recommendation.gain}"] if story.recommendation.gain else []),
        f"Why: {story.recommendation.margin}",
        *([f"In {story.contained.container}: {story.contained.sentence}"] if story.contained is not None else []),
        f"Verification: {verified(story)}",
    )
    return Section(key="answer", title=title, paragraphs=paragraphs)


def verified(story: Story) -> str:
    """Whether the written file reproduced the numbers, in one sentence."""
    if story.verification is None and story.recommendation is not None and story.contained is None:
        nothing = why_nothing_to_write(story.recommendation.trial.candidate)
        if nothing:
            return f"none: {nothing}"
    if story.verification is None:
        return f"not done; dyno recommend {story.run.root} --verify measures a server started from the written file"
    best = story.contained.best if story.contained is not None else None
    of_which = f"of {label(best.trial.candidate)}, " if best is not None else ""
    return of_which + story.verification.sentence


def engines(story: Story) -> Section:
    """The best candidate of each engine, feasible ones first, beside each other."""
    best = best_per_engine(story)
    objective = story.goals.objectives[0]
    shown = [(row.heading, row.name) for row in metrics_in("engines")]
    if objective.metric not in [name for _, name in shown]:
        shown.insert(0, (metric_title(objective.metric, _unit(best, objective.metric)), objective.metric))
    heads = (
        Head(title="Engine"),
        Head(title="Its best candidate"),
        *(Head(title=title, is_number=True) for title, _ in shown),
        Head(title="Quality"),
        Head(title="Candidates", is_number=True),
    )
    rows = []
    for one in best:
        trial = one.evidence(story.goals)
        count = sum(other.candidate.engine == one.candidate.engine for other in story.everyone)
        cells = [metric_cell(one.metric(name), trial.trial_id) for _, name in shown]
        verdict = trial.quality.verdict if trial.quality is not None else "not measured"
        name = label(one.candidate).partition(" ")[2]
        if not one.is_feasible:
            name += f" ({'broke a constraint' if one.worst.outcome == 'ok' else one.worst.outcome.replace('_', ' ')})"
        rows.append(
            (
                Cell(text=one.candidate.engine),
                Cell(text=name),
                *cells,
                Cell(text=verdict),
                Cell(text=str(count), sort=count),
            )
        )
    note = "The best by the first objective; repetitions pooled."
    return Section(key="engines", title="Engines side by side", heads=heads, rows=tuple(rows), notes=(note,))


def best_per_engine(story: Story) -> list[Pooled]:
    """One candidate of each engine, best first: the chosen one, else feasible by objective, broken, failed."""
    best: dict[str, Pooled] = {}
    for one in story.ranked():
        best.setdefault(one.candidate.engine, one)
    return list(best.values())


def importance(story: Story) -> Section:
    """Which axes mattered, or why that is unknown."""
    title = "What mattered"
    objective = story.goals.objectives[0].metric
    if not story.importances:
        measured = sum(one.metric(objective) is not None for one in story.everyone)
        why = (
            f"No axis can be distinguished from chance: it takes {MIN_CANDIDATES} measured candidates and an axis that "
            f"repeats its values; candidates measured here: {measured}."
        )
        return Section(key="importance", title=title, paragraphs=(why,))
    heads = (
        Head(title="Axis"),
        Head(title="Variance explained (%)", is_number=True),
        Head(title="95 % of chance (%)", is_number=True),
        Head(title="Best value"),
        Head(title="Values", is_number=True),
        Head(title="Candidates", is_number=True),
    )
    rows = tuple(
        (
            Cell(text=axis_title(one.axis)),
            _percent(one.share_frac),
            _percent(one.chance_frac),
            Cell(text=one.best_level),
            Cell(text=str(one.levels), sort=one.levels),
            Cell(text=str(one.n), sort=one.n),
        )
        for one in story.importances
    )
    note = (
        f"Share of the variance of log({objective}) that an axis explains on its own (omega squared, one value per "
        "candidate); below the second column it is no more than chance. A search does not try every combination, so "
        "axes share credit."
    )
    return Section(key="importance", title=title, heads=heads, rows=rows, notes=(note,))


def losses(story: Story) -> Section | None:
    """Why each other candidate lost, best first; None when there is no other."""
    if story.recommendation is None or not story.recommendation.losses:
        return None
    listed = story.recommendation.losses[:LOSSES_SHOWN]
    heads = (Head(title="Candidate"), Head(title="Why"), Head(title="Trial"))
    rows = tuple(
        (
            Cell(text=label(loss.candidate)),
            Cell(text=one_line(loss.why)),
            Cell(text=loss.trial_id, trial_id=loss.trial_id),
        )
        for loss in listed
    )
    capped = part_shown(
        len(listed), len(story.recommendation.losses), "losers", "the best first, to keep the page small"
    )
    notes = (capped,) if capped else ()
    return Section(key="losses", title="Why the others lost", heads=heads, rows=rows, notes=notes)


def facts(story: Story) -> Section:
    """Machine, versions and the command, as the manifest has them."""
    manifest = story.run.manifest
    facts_by_name: dict[str, str] = {
        "run": str(story.run.root),
        "model": model_name(story.run),
        "command": _command(manifest.command),
        **_imported(manifest.imported),
        "created": manifest.created_utc,
        "scenario digest": manifest.digest,
        "dynamometer": f"{manifest.dyno_version} {manifest.git}".strip(),
        **{key.replace("_", " "): plain_value(value) for key, value in manifest.machine.items()},
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items())),
        **_engine_versions(story.run.trials),
    }
    rows = tuple((Cell(text=key), Cell(text=value)) for key, value in facts_by_name.items() if value)
    return Section(
        key="machine", title="Machine and software", heads=(Head(title="Fact"), Head(title="Value")), rows=rows
    )


def headline(one: Pooled) -> str:
    """'P50 20.1 ms [19.8, 20.6], throughput 397 requests/s [...]': the answer's numbers, repetitions pooled."""
    rows = metrics_in("brief")
    return ", ".join(f"{row.short} {quantity(metric)}" for row in rows if (metric := one.metric(row.name)) is not None)


def plain_value(value: object) -> str:
    """A manifest's value as text; '' for none."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain_value(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _command(words: Sequence[str]) -> str:
    """As it was typed: the path of our own starter is 'dyno'."""
    if not words:
        return ""
    is_ours = Path(words[0]).name in ("__main__.py", "dyno")
    return " ".join(["dyno" if is_ours else words[0], *words[1:]])


def _imported(imported: Imported | None) -> dict[str, str]:
    """Who measured, and the first digits of each file's SHA-256."""
    if imported is None:
        return {}
    files = ", ".join(f"{name} ({digest[:10]})" for name, digest in imported.files.items())
    return {"measured by": imported.by, "imported files": files}


def _engine_versions(trials: Sequence[Trial]) -> dict[str, str]:
    """What served, by engine and, where one was named, environment: two may hold two versions of one package."""
    found: dict[str, dict[str, str]] = {}
    for trial in trials:
        candidate = trial.candidate
        name = f"{candidate.engine} (python: {candidate.python})" if candidate.python else candidate.engine
        found.setdefault(name, {}).update(trial.versions)
    return {f"engine {name}": plain_value(versions) for name, versions in sorted(found.items()) if versions}


def _percent(share: float) -> Cell:
    return Cell(text=f"{100 * share:.0f}", sort=share)


def _unit(best: Sequence[Pooled], name: str) -> str:
    return next((metric.unit for one in best if (metric := one.metric(name)) is not None), "")
