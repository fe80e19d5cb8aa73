"""Racing: whether a trial under load is surely worse than the best one measured so far, so that it may end early.

All trials of a search send the same seeded requests, so they are compared request number by request number, in blocks
longer than the dependence found between neighbours: each pair of blocks gives the logarithm of a ratio, and Student's t
a lower bound of their mean. What is to be refuted is 'at most the margin worse'. The margin is twice the spread between
two launches, so that more requests never turn the luck of a launch into evidence. The error level of a whole search is
shared evenly (Bonferroni) over all challengers and over the checks of each. The first check may be a probe as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.choose.goals import goals_of
from harness.gate.launches import quantile_of
from harness.measure.metrics import metric_of
from harness.race import Race
from harness.records import RequestRecord, Trial
from harness.scenario.load_kinds import ClosedLoad
from harness.scenario.schema import Scenario
from harness.tune.finalists import first_measurements
from harness.tune.probe import PROBE_ERROR, PROBE_ROUNDS, probe_of
from harness.tune.race_bounds import MIN_BLOCKS, Bound, Floats, length_of, of_good, of_ratios, of_tails
from harness.tune.spreads import NOTHING_EARLIER, Earlier, margin_frac, spread_of
from harness.units import NS_PER_MS

ERROR = 0.05
"""Probability that a search ends a trial by chance of its requests that is no more than the margin worse."""
CHECK_FRACS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""When a trial is judged, as shares of the requests that the best one answered. Later, nothing is saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a trial is raced on: that it is at most `margin_frac` worse in `metric` than trial `against`, because of
    `margin_why`. Judged after each of `checks` requests, each time with an error probability of `level`, by blocks of
    at least `round_requests`, those of one round of all users. `against_value` is what that trial measured,
    `good_within` the time (unit of Seen) in which a good request is answered. `probe` is the number of the check, from
    0, that is a probe, None where there is none, because of `probe_why`."""

    against: str
    metric: str
    against_value: float
    margin_frac: float
    margin_why: str
    checks: tuple[int, ...]
    level: float
    round_requests: int
    good_within: float = math.inf
    probe: int | None = None
    probe_why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the requests of one load, by their number: when each began, and how long its answer took or has
    taken by now; NaN where that is not known, or it failed. Same unit, any origin."""

    began: Floats
    waited: Floats


def terms_for(
    engine: str, trials: Sequence[Trial], scenario: Scenario, earlier: Earlier = NOTHING_EARLIER, machine: str = ""
) -> Terms | None:
    """What the next trial of `engine` is raced on, after these and `earlier` runs; None where nothing is raced. Nor is
    it before as many feasible ones are measured whole as there shall be finalists: should the best fail later, another
    must stand in. On a `machine` ('': any) it races the best that this machine measured itself, since the speed of
    another is no evidence about a candidate."""
    goals = goals_of(scenario)
    feasible = [trial for trial in first_measurements(trials) if trial.is_feasible]
    if scenario.why_not_raced is not None or len(feasible) < max(1, scenario.search.confirm.finalists):
        return None
    best = min((trial for trial in feasible if machine in ("", trial.machine)), key=goals.costs, default=None)
    if best is None:
        return None
    metric = goals.objectives[0].metric
    measured = metric_of(best, metric)
    if measured is None:
        return None
    numbers = tuple(sorted({int(measured.n * frac) for frac in CHECK_FRACS}))
    checks = tuple(number for number in numbers if number >= MIN_BLOCKS)
    if not checks:
        return None
    mine, its = (spread_of(each, trials, metric, earlier) for each in (engine, best.candidate.engine))
    challengers = max(1, scenario.search.trials - 1)
    load, slo = scenario.workload.load, scenario.workload.slo
    round_requests = load.most_users if isinstance(load, ClosedLoad) else 1
    probe, probe_why = probe_of(engine, trials, checks, round_requests)
    if _needs_counts(metric):
        probe, probe_why = None, f"not probed: a probe has too few requests for {metric}"
    return Terms(
        against=best.trial_id,
        metric=metric,
        against_value=measured.value,
        margin_frac=margin_frac(mine, its),
        margin_why=mine.text if mine == its else f"{mine.text}; {its.text}",
        checks=checks,
        level=ERROR / (challengers * len(checks)),
        round_requests=round_requests,
        good_within=math.inf if slo is None or slo.latency_ms is None else slo.latency_ms * NS_PER_MS,
        probe=probe,
        probe_why=probe_why,
    )


def seen(records: Iterable[RequestRecord], now_ns: int) -> Seen:
    """All requests begun, as these records of finished ones show them. Requests begin in the order of their numbers,
    so one without an answer has waited at least since the next answered number began."""
    chosen = [record for record in records if not record.is_warmup]
    count = 1 + max((record.seq for record in chosen), default=-1)
    began, waited = np.full(count, np.nan), np.full(count, np.nan)
    for record in chosen:
        began[record.seq] = record.intended_ns
        if record.outcome in ("ok", "timed_out"):
            waited[record.seq] = record.latency_ns
    is_open = np.isnan(began)
    began = np.fmin.accumulate(began[::-1])[::-1]
    waited[is_open] = np.maximum(now_ns - began[is_open], 1.0)
    return Seen(began, waited)


def lost(terms: Terms, check: int, mine: Seen, best: Seen) -> Race | None:
    """The race that a trial has lost by check number `check` (from 0), as evidence; None while it has not."""
    count = min(terms.checks[check], len(mine.waited), len(best.waited))
    sides = tuple(Seen(each.began[:count], each.waited[:count]) for each in (mine, best))
    found, is_probe = _bound(terms, *sides), False
    if check == terms.probe and not _is_beyond(found, terms):
        found, is_probe = _bound(terms, *sides, is_probe=True), True
    if found is None or not _is_beyond(found, terms):
        return None
    return Race(
        against=terms.against,
        metric=terms.metric,
        against_value=terms.against_value,
        margin_frac=terms.margin_frac,
        margin_why=terms.margin_why,
        level=PROBE_ERROR if is_probe else terms.level,
        check=check + 1,
        checks=len(terms.checks),
        requests=count,
        blocks=found.blocks,
        block_requests=found.block_requests,
        worse_frac=found.worse_frac,
        at_least_frac=found.at_least_frac,
        is_probe=is_probe,
    )


def _is_beyond(found: Bound | None, terms: Terms) -> bool:
    return found is not None and found.at_least_frac > terms.margin_frac


def _needs_counts(metric: str) -> bool:
    """Whether requests are counted, not compared: a probe is too short for that."""
    q = quantile_of(metric)
    return metric.startswith("goodput_") or (q is not None and q > 0.5)


def _bound(terms: Terms, mine: Seen, best: Seen, *, is_probe: bool = False) -> Bound | None:
    """How much worse the trial is than the best, in its objective; for a probe by blocks of one round."""
    users, margin = terms.round_requests, terms.margin_frac
    level, least = (PROBE_ERROR, PROBE_ROUNDS) if is_probe else (terms.level, MIN_BLOCKS)
    if terms.metric.startswith("goodput_"):
        # What failed or whose time is not known is good here and not good there: neither ends a trial.
        mine_good, best_good = ~(mine.waited > terms.good_within), best.waited <= terms.good_within
        return of_good(mine_good.astype(np.float64), best_good.astype(np.float64), level, users, margin)
    pairs = np.array([mine.waited, best.waited])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]  # what failed on either side counts on neither
    q = quantile_of(terms.metric)
    if pairs.shape[1] < MIN_BLOCKS:
        return None
    if q is not None and q > 0.5:
        return of_tails(pairs[0], pairs[1], q, level, users, margin)
    length = users if is_probe else length_of(np.log(pairs[0] / pairs[1]), users)
    if terms.metric.startswith("throughput_"):
        return of_ratios(_of_spans(mine.began, best.began, length), length, level, least)
    middle = np.mean if "_mean_" in terms.metric else np.median
    blocks = pairs[:, : pairs.shape[1] // length * length].reshape(2, -1, length)
    return of_ratios(np.log(middle(blocks[0], axis=1) / middle(blocks[1], axis=1)), length, level, least)


def _of_spans(mine: Floats, best: Floats, length: int) -> Floats:
    """Log ratio of the time in which each pair of blocks began: in a closed loop the inverse ratio of throughputs."""
    spans = np.diff([mine[::length], best[::length]], axis=1)
    spans = spans[:, (spans > 0).all(axis=0)]  # of requests that began at an unknown time there is no span
    return np.asarray(np.log(spans[0] / spans[1]))
