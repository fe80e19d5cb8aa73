"""The part of `dyno tune` that looks at earlier runs: what to try first, how launches differed, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.choose.goals import goals_of
from harness.measure.machine.facts import machine_facts
from harness.records import Candidate
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import SpacePlan
from harness.space.capabilities import model_kind_of
from harness.space.plan_text import Forecast
from harness.store.layout import DEFAULT_RESULTS
from harness.store.reader import find_run
from harness.tune.spreads import Earlier, spread_of

if TYPE_CHECKING:
    from harness.tune.earlier_runs import Place


class EarlierRuns:
    """Those below `results` (None: the default), of which the user named some to begin with; `facts` are those of the
    machine that measures, None: of this one."""

    def __init__(self, results: Path | None, named: tuple[str, ...], facts: Mapping[str, object] | None = None) -> None:
        self._results = results or DEFAULT_RESULTS
        self._named = named
        self._facts = facts

    def first(self, resolved: ResolvedScenario, plan: SpacePlan) -> tuple[Candidate, ...]:
        """The candidates that the named ones put first. Raises UsageError for one that cannot be learned from."""
        if not self._named:
            return ()
        from harness.tune.warm_start import prior_order, read_hints

        here = self._here(resolved)
        return prior_order(plan, read_hints(self._roots(), resolved, here, plan), resolved.scenario.search.trials)

    def spreads(self, resolved: ResolvedScenario, plan: SpacePlan, before: str = "") -> Earlier:
        """What races need to know of launches, from runs like this one that began before it (UTC; '': before now)."""
        from harness.tune.earlier_runs import earlier_spreads

        if resolved.scenario.why_not_raced is not None:
            return {}
        here = self._here(resolved)
        metric = goals_of(resolved.scenario).objectives[0].metric
        return earlier_spreads(self._results, self._roots(), here, metric, _engines(plan), before=before)

    def forecast(self, resolved: ResolvedScenario, plan: SpacePlan) -> Forecast | None:
        """How long the search should take; None where no earlier run is like it."""
        from harness.tune.earlier_runs import runs_like
        from harness.tune.forecast import forecast

        runs = tuple(runs_like(self._results, self._roots(), self._here(resolved)))
        return forecast(resolved, plan.size, _engines(plan), runs)

    def _here(self, resolved: ResolvedScenario) -> Place:
        from harness.tune.earlier_runs import Place

        return Place(model=resolved.model.value, kind=model_kind_of(resolved), machine=self._facts or machine_facts())

    def _roots(self) -> list[Path]:
        return [find_run(self._results, name) for name in self._named]


def spread_texts(resolved: ResolvedScenario, plan: SpacePlan, earlier: Earlier) -> tuple[str, ...]:
    """A sentence for each engine of the plan on how much two of its launches differ; none where nothing is raced."""
    if resolved.scenario.why_not_raced is not None:
        return ()
    metric = goals_of(resolved.scenario).objectives[0].metric
    return tuple(spread_of(engine, (), metric, earlier).text for engine in _engines(plan))


def _engines(plan: SpacePlan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(block.engine for block in plan.blocks if block.candidates))
