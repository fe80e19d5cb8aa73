"""An estimate of how long a scenario's load takes, with the load in one sentence, for --dry-run."""

from __future__ import annotations

from harness.level import Level
from harness.load.schedule.max_rate import probes_needed
from harness.scenario.load_kinds import ClosedLoad, MaxRateLoad
from harness.scenario.load_list import LoadList
from harness.scenario.schema import Workload


def load_text(workload: Workload) -> str:
    """'poisson, 40 requests/s for 3 s: about 120 requests, at most 200 in flight'."""
    load = workload.load
    if isinstance(load, LoadList):
        each = (f"{level.name} ({load_text(at_level(workload, level))})" for level in load.levels)
        return f"{len(load.levels)} loads, one after the other in one launch: {'; '.join(each)}"
    if load.levels:
        *rest, last = (f"{level.value:.10g}" for level in load.levels)
        alone = load_text(at_level(workload, load.levels[-1]))
        return f"sweep over {', '.join(rest)} and {last}, one after the other in one launch; the last: {alone}"
    if isinstance(load, ClosedLoad):
        return _closed_text(load, workload)
    if isinstance(load, MaxRateLoad):
        course = _search_text(load, workload)
    else:
        course = load.text(workload.max_duration_s, load_s(workload))
        count = load.count(workload.requests, workload.max_duration_s)
        course += f": about {count} requests" if count is not None else ""
    return f"{course}, at most {load.max_in_flight} in flight"


def load_s(workload: Workload) -> float:
    """Seconds of load in one trial, at most."""
    load = workload.load
    if isinstance(load, LoadList) or load.levels:
        return sum(load_s(at_level(workload, level)) for level in load.levels)
    if isinstance(load, ClosedLoad):
        return workload.max_duration_s
    if isinstance(load, MaxRateLoad):
        return _probes(load) * workload.max_duration_s
    return load.seconds(workload.requests, workload.max_duration_s)


def load_requests(workload: Workload) -> int:
    """Requests of one trial, about; those of workload.requests where nobody knows before a trace is read."""
    load = workload.load
    if isinstance(load, LoadList) or load.levels:
        return sum(load_requests(at_level(workload, level)) for level in load.levels)
    if isinstance(load, ClosedLoad):
        return workload.requests
    if isinstance(load, MaxRateLoad):
        return round(_probes(load) * load.low_rps * workload.max_duration_s)
    count = load.count(workload.requests, workload.max_duration_s)
    return workload.requests if count is None else count


def at_level(workload: Workload, level: Level) -> Workload:
    """The workload with one level of its sweep, or one load of its list, as its load."""
    return workload.model_copy(update={"load": workload.load.at(level)})


def _closed_text(load: ClosedLoad, workload: Workload) -> str:
    users = load.most_users
    until = f"{workload.requests} requests or {workload.max_duration_s:g} s"
    if workload.locustfile is not None:
        pace = f", {workload.spawn_per_s:g} begun per second" if workload.spawn_per_s else ""
        return f"{users} users of {workload.locustfile}{pace}: {until}"
    think = f", {load.think_time_s:g} s of thought" if load.think_time_s else ""
    return f"closed loop, {users} users{think}: {until}"


def _search_text(load: MaxRateLoad, workload: Workload) -> str:
    bounds = [f"{name} <= {bound.max:g}" for name, bound in load.slo.items()]
    if workload.slo is not None:
        limits = ", ".join(f"{name} {value:g}" for name, value in workload.slo.thresholds().items())
        bounds.append(f"{load.good_frac:.0%} of requests within {limits}")
    return (
        f"largest rate from {load.low_rps:g} to {load.high_rps:g} requests/s ({load.arrivals}) with "
        f"{' and '.join(bounds)}: at most {_probes(load)} probes of {workload.max_duration_s:g} s"
    )


def _probes(load: MaxRateLoad) -> int:
    return min(load.probes, probes_needed(load.low_rps, load.high_rps, load.precision_frac))
