"""Progress of a search on stderr: bars on a terminal, else one plain line per event."""

from __future__ import annotations

import sys
from textwrap import shorten
from types import TracebackType
from typing import Any, Protocol, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.measure.metrics import metric_of
from harness.records import Trial
from harness.scenario.schema import Scenario
from harness.trial.progress import LAUNCH, Phase
from harness.tune.search_records import SearchEvent
from harness.units import format_duration
from harness.wording import label, quantity

REASON_LENGTH = 240
"""Characters of a failure's reason in a line of progress; the record and the log hold the rest."""


class Display(Protocol):
    """Shows progress; a context manager, closed before the answer is printed."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def on_event(self, event: SearchEvent) -> None: ...
    def on_phase(self, phase: Phase) -> None: ...
    def note(self, text: str) -> None:
        """One line that stays."""
        ...


def open_display(scenario: Scenario) -> Display:
    """Bars where stderr is a terminal (without colours under NO_COLOR), lines elsewhere."""
    return BarDisplay(scenario) if sys.stderr.isatty() else LineDisplay(scenario)


class LineDisplay:
    """One line per event; phases are left out but for their beginning, and for what a launch waits for."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._phase = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def on_event(self, event: SearchEvent) -> None:
        self._phase = ""
        for line in event_lines(event, self._scenario):
            self.note(line)

    def on_phase(self, phase: Phase) -> None:
        if phase.name != self._phase:
            self._phase = phase.name
            self.note(f"    {phase_text(phase)}")
        if phase.name == LAUNCH and phase.text:
            self.note(f"    {phase.text}")

    def note(self, text: str) -> None:
        click.echo(text, err=True)


class BarDisplay:
    """Two bars: the search (trials, time, what is left of it) and the trial in flight (phase, counts)."""

    def __init__(self, scenario: Scenario) -> None:

        self._scenario = scenario
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[more]}"),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=4,  # a terminal redrawn more often would take CPU from what is measured
        )
        self._search: Any = self._progress.add_task("search", total=scenario.search.trials, more="")
        self._trial: Any = self._progress.add_task("starting", total=None, more="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_event(self, event: SearchEvent) -> None:
        limit_s = self._scenario.search.max_minutes * 60
        left_s = time_left_s(event, self._scenario)
        more = f"{format_duration(event.spent_s)} of {format_duration(limit_s)}"
        more += f", about {format_duration(left_s)} left" if left_s is not None else ""
        self._progress.update(self._search, completed=event.measured, more=more)
        if event.kind == "launching" and event.candidate is not None:
            self._progress.reset(self._trial, total=None, description="launch", more=label(event.candidate))
            return
        for line in event_lines(event, self._scenario):
            self.note(line)

    def on_phase(self, phase: Phase) -> None:
        self._progress.update(
            self._trial, description=f"{phase.name:8}", completed=phase.done, total=phase.total or None
        )
        if phase.text:
            self._progress.update(self._trial, more=phase.text)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def phase_text(phase: Phase) -> str:
    """'quality, 32 prompts' as a line announces it."""
    things = {"quality": "prompts", "load": "requests", "warm-up": "requests"}.get(phase.name, "")
    return f"{phase.name}, {phase.total} {things}" if phase.total and things else phase.name


def event_lines(event: SearchEvent, scenario: Scenario) -> list[str]:
    """The lines for an event; one each, but for a failure's log."""
    trials = f"[{event.measured}/{scenario.search.trials}]"
    if event.kind == "launching" and event.candidate is not None:
        expected = f", about {format_duration(event.expected_s)}" if event.expected_s else ""
        again = f" ({event.text})" if event.text else ""
        return [f"{trials} trial {event.number}{again}: {label(event.candidate)}{expected}"]
    if event.trial is not None and event.kind == "skipped":
        return [f"{trials} skipped {label(event.trial.candidate)}: {event.trial.reason}"]
    if event.kind in ("dropped", "widened"):
        return [f"{trials} {event.text}"]
    if event.trial is not None:
        return [f"{trials} {trial_text(event.trial, scenario)}"]
    return [f"stopped after {format_duration(event.spent_s)}: {event.text}"]


def trial_text(trial: Trial, scenario: Scenario) -> str:
    """'ctranslate2 int8, batch 4: latency_p50_ms 20.1 ms [19.8, 20.6], quality Normal' or why it failed."""
    if trial.outcome != "ok":
        reason = shorten(trial.reason, REASON_LENGTH, placeholder=" ...")
        return f"{label(trial.candidate)}: {trial.outcome}{f': {reason}' if reason else ''}"
    parts = [
        f"{objective.metric} {quantity(metric)}"
        for objective in scenario.objectives
        if (metric := metric_of(trial, objective.metric)) is not None
    ]
    if trial.quality is not None:
        parts.append(f"quality {trial.quality.verdict}")
    parts += [f"breaks a constraint: {violation}" for violation in trial.violations]
    return f"{label(trial.candidate)}: {', '.join(parts)}"


def time_left_s(event: SearchEvent, scenario: Scenario) -> float | None:
    """Seconds until the search should end: trials left at the pace so far, never beyond the budget."""
    if event.measured == 0:
        return None
    pace_s = event.spent_s / event.measured
    by_trials_s = (scenario.search.trials - event.measured) * pace_s
    return max(0.0, min(by_trials_s, scenario.search.max_minutes * 60 - event.spent_s))
