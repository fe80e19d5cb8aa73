"""One measured window of a trial with its summary, and what several windows gave together: records only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from harness.level import Level
from harness.load.driver import LoadResult
from harness.measure.asked_lengths import too_short_answers
from harness.measure.doubts import measured
from harness.measure.engine_metrics.scrapes import EngineMetrics
from harness.measure.machine.sampler import ResourceUse
from harness.measure.metrics import metrics_in
from harness.records import Probe, RequestRecord, TrialSummary
from harness.trial.raced import Racing


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One measured window: raw result, resources, telemetry columns, what the server published, summary; `limited` is
    '' or why it is void, `racing` what may have ended it early."""

    result: LoadResult
    use: ResourceUse
    telemetry: Mapping[str, Sequence[float | None]]
    engine_metrics: EngineMetrics
    summary: TrialSummary
    limited: str = ""
    racing: Racing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a trial's load gave. `window` is the trial's own; `others` are the remaining probes by their number."""

    window: Window
    probes: tuple[Probe, ...] = ()
    others: Mapping[int, Window] = field(default_factory=dict)

    def judged(self, asked: Collection[Level]) -> tuple[tuple[Level | None, Window], ...]:
        """The windows that decide the trial, each with its level: its own, and those of the levels `asked` about. Where
        no level is asked about, that is the own one alone, without a level but for its name in a list."""
        found = tuple(
            (probe.level, self.others.get(probe.number, self.window))
            for probe in self.probes
            if probe.level in asked or (probe.is_own and (asked or probe.load))
        )
        return found or ((None, self.window),)

    @property
    def records(self) -> tuple[RequestRecord, ...]:
        """The requests of all windows."""
        return tuple(record for each in (self.window, *self.others.values()) for record in each.result.records)


def probe_of(number: int, level: Level, why: str, window: Window, *, is_own: bool = False) -> Probe:
    """The window as a probe of several; `why` is '' where it held."""
    metrics = window.summary.metrics
    return Probe(
        number=number,
        rate_rps=level.value if level.axis == "rate_rps" else None,
        users=int(level.value) if level.axis == "users" else None,
        load=level.name,
        is_own=is_own,
        is_held=not why,
        reason=why,
        values={row.name: metrics[row.name].value for row in metrics_in("probe") if row.name in metrics},
    )


def at(level: Level | None) -> str:
    """'at load chat: ' before a sentence; '' where there is no level."""
    return "" if level is None else f"at {level.text}: "


def why_void(judged: Sequence[tuple[Level | None, Window]]) -> list[str]:
    """Why these windows mean nothing beside another candidate's: too many errors, or answers too short."""
    return [
        at(level) + why
        for level, window in judged
        for why in (window.result.too_many_errors, too_short_answers(measured(window.result.records)))
        if why
    ]


def why_unusable(window: Window) -> str:
    """'' or why the window shows nothing of the load that was asked for."""
    why = window.limited or window.result.too_many_errors or why_bounded(window.result)
    return why or too_short_answers(measured(window.result.records))


def why_bounded(result: LoadResult) -> str:
    """'' or why to doubt the window: requests that were due had to wait, since as many as allowed were outstanding."""
    facts = result.open_loop
    if facts is None or not facts.waited:
        return ""
    return (
        f"{facts.waited} of {facts.planned} requests were due while max_in_flight = {facts.max_in_flight} were "
        "outstanding, so the load was not the one asked for; lower the rate (the engine cannot keep up) or raise "
        "max_in_flight"
    )
