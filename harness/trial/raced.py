"""The race of one running trial: its load is compared with the best one's, and ended when it surely loses.

It is judged at its checks, unless something from outside disturbs it; once lost, its numbers become bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.choose.goals import Goals, Limit
from harness.load.plan import LoadPlan
from harness.load.so_far import Checks
from harness.measure.doubts import doubts_of
from harness.measure.machine.sampler import ResourceSampler, ResourceUse
from harness.race import Race
from harness.records import ONLY_WORSE, DoubtKind, Metric, RequestRecord, TrialSummary
from harness.store.layout import RunLayout
from harness.store.requests_table import read_table
from harness.trial.surely_broken import surely_broken
from harness.tune.racing import Seen, Terms, lost, seen

DISTURBANCES: frozenset[DoubtKind] = ONLY_WORSE | {
    "drift", "short_warmup", "stolen_cpu", "cpu_quota", "swapping", "overheated",
}  # fmt: skip
"""What comes from outside the engine: while it lasts no trial is ended early."""

KEPT = (
    "error_frac", "load_s", "peak_memory_mib", "gpu_memory_mib", "cpu_frac_engine", "cpu_frac_client", "cpu_frac_other",
)  # fmt: skip
"""Metrics of a trial that ended early which mean what they mean elsewhere; its percentiles and rates do not."""
SHORT = ("few_samples", "short_window")
"""Doubts that go without saying where a trial ended early."""


@dataclass(slots=True, kw_only=True)
class Racing:
    """A trial's race against the requests of the best one, and within `limits`. `race` is the evidence once it is lost,
    `broken` the constraint that ended it otherwise, `spared` why a trial that had lost by a check ran on."""

    terms: Terms
    best: Seen
    limits: tuple[Limit, ...] = ()
    race: Race | None = None
    broken: str = ""
    spared: str = ""

    def checks(self, use_since: Callable[[int], ResourceUse], planned: int, *, is_open_loop: bool) -> Checks:
        """When and how a load of `planned` requests is judged; `use_since` is what was used from a moment (ns) until
        now."""

        def why_over(check: int, records: Sequence[RequestRecord], until_ns: int) -> str:
            race = lost(self.terms, check, seen(records, until_ns), self.best)
            broken = "" if race is not None else surely_broken(self.limits, records, planned)
            why = broken if race is None else why_ended(race)
            if not why:
                return ""
            use = use_since(min(record.intended_ns for record in records))
            doubts = doubts_of(records, use, is_open_loop=is_open_loop)
            outside = next((doubt.sentence for doubt in doubts if doubt.kind in DISTURBANCES), "")
            if outside:
                self.spared = f"not ended early at check {check + 1}, though it had lost ({why}): {outside}"
                return ""
            self.race, self.broken = race, broken
            return why

        return Checks(after=self.terms.checks, why_over=why_over)


def racing(terms: Terms, layout: RunLayout, goals: Goals) -> Racing:
    """The race that these terms state, against the stored requests of a trial of the run. Raises EnvironmentFault."""
    records = read_table(layout.requests(terms.against))
    best = seen(records, max(record.done_ns for record in records))
    return Racing(terms=terms, best=best, limits=goals.limits)


def checks_of(racing: Racing | None, plan: LoadPlan, sampler: ResourceSampler) -> Checks | None:
    """The checks of a load that `sampler` watches; None where it is not raced."""
    if racing is None:
        return None
    planned = len(plan.offsets_ns) or plan.requests
    return racing.checks(
        lambda begin_ns: sampler.use_so_far(begin_ns, plan.processes), planned, is_open_loop=plan.is_open_loop
    )


def why_ended(race: Race) -> str:
    """The evidence as one sentence."""
    luck = f"{100 * race.margin_frac:.0f} % may be the luck of two launches: {race.margin_why}"
    how = f"{race.blocks} blocks of {race.block_requests} requests at check {race.check} of {race.checks}"
    how = f"the probe alone, {how}" if race.is_probe else how
    return (
        f"{race.metric} at least {100 * race.at_least_frac:.0f} % worse than {race.against}, and {luck}; by {how}, "
        f"error {100 * race.level:.2g} %"
    )


def as_bound(summary: TrialSummary, race: Race) -> TrialSummary:
    """The numbers of a trial that ended early: its objective as a bound, and what a part of the load does not bias."""
    whole = summary.metrics[race.metric]
    is_minimized = race.metric.startswith("latency_")
    value, bound = (
        race.against_value * (factor if is_minimized else 1 / factor)
        for factor in (1 + race.worse_frac, 1 + race.at_least_frac)
    )
    metric = Metric(
        value=value,
        unit=whole.unit,
        estimator=f"that of {race.against} times the ratio of the same {race.requests} requests, by pairs of blocks",
        method="race",
        n=race.requests,
        low=bound if is_minimized else None,
        high=None if is_minimized else bound,
    )
    return _with(summary, {race.metric: metric})


def as_broken(summary: TrialSummary, goals: Goals) -> TrialSummary:
    """The numbers of a trial that a broken constraint ended: those that the goals name, as far as it came."""
    names = [*(one.metric for one in goals.objectives), *(limit.metric for limit in goals.limits)]
    return _with(summary, {name: summary.metrics[name] for name in names if name in summary.metrics})


def _with(summary: TrialSummary, metrics: Mapping[str, Metric]) -> TrialSummary:
    """A summary of these metrics, and of what a part of the load does not bias."""
    kept = {name: summary.metrics[name] for name in KEPT if name in summary.metrics}
    found = replace(summary, metrics={**metrics, **kept}, distrust=(), distrust_kinds=())
    return found.doubted(doubt for doubt in summary.doubts if doubt.kind not in SHORT)
